//! `calibrate`.

use std::time::{Duration, SystemTime};

use anyhow::Context;

use super::Ending;
use super::bench::{check_results, meta, result_folder, wrong_settings};
use super::progress::{Progress, Steps};
use super::tell;
use crate::calibrate::Calibration;
use crate::cli::CalibrateCommand;
use crate::cluster::data_root_default;
use crate::drive::{Pacing, ceiling};
use crate::record::Meta;

/// `calibrate`.
pub(super) fn calibrate(command: &CalibrateCommand) -> anyhow::Result<Ending> {
    let CalibrateCommand { duration, data_root, load, result } = command;
    let data_root = data_root.clone().unwrap_or_else(data_root_default);
    let warmup = Duration::from_millis(500);
    let spec = load
        .spec(Vec::new(), 1, Pacing::Saturate, warmup, *duration)
        .unwrap_or_else(|reason| wrong_settings("calibrate", &reason));
    check_results(result)?;
    let started_at = SystemTime::now();
    let progress = Progress::new(1, Steps::Runs);
    progress.say("measuring round trips and synced writes");
    let mut calibration = Calibration::measure(&data_root, *duration)?;
    progress.say("measuring the generator against a server that only answers");
    calibration.generator_ceiling = Some(ceiling(&spec).context("cannot measure the generator's own ceiling")?);
    drop(progress);
    let folder = result_folder(result, "calibrate")?;
    folder.write_json("calibrate.json", &calibration)?;
    let data_file_system = calibration.data_file_system.clone();
    folder.write_json("meta.json", &Meta { data_file_system, ..meta(&spec, None, started_at)? })?;
    tell::result(&calibration);
    tell::result(format_args!("written to {}", folder.path().display()));
    Ok(Ending::Good)
}
