//! `report`.

use anyhow::Context;

use super::{Ending, tell};
use crate::cli::ReportCommand;
use crate::record::ResultFolder;
use crate::report::{Results, page};

/// `report`.
pub(super) fn report(command: &ReportCommand) -> anyhow::Result<Ending> {
    let page = page(&Results::find(&command.folders)?)?;
    let output = &command.output;
    std::fs::write(output, page).with_context(|| format!("cannot write {}", output.display()))?;
    tell::result(format_args!("written to {}", output.display()));
    Ok(Ending::Good)
}

/// Writes the page of one result into its own folder.
pub(super) fn write_page(folder: &ResultFolder) -> anyhow::Result<()> {
    let results = Results::find(&[folder.path().to_owned()])?;
    Ok(folder.write("index.html", page(&results)?)?)
}
