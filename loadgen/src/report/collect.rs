//! Finds results in folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::calibrate::Calibration;
use crate::compare::Comparison;
use crate::failover::Failover;
use crate::matrix::Matrix;
use crate::record::{Meta, RunFolder, read_json};
use crate::sweep::Sweep;

/// Results of all kinds.
#[derive(Debug, Default)]
pub struct Results {
    /// Matrices, with their folders.
    pub matrices: Vec<(PathBuf, Option<Meta>, Matrix)>,
    /// Sweeps, with their folders.
    pub sweeps: Vec<(PathBuf, Option<Meta>, Sweep)>,
    /// Failover series, with their folders.
    pub failovers: Vec<(PathBuf, Option<Meta>, Failover)>,
    /// Comparisons with other systems, with their folders.
    pub comparisons: Vec<(PathBuf, Option<Meta>, Comparison)>,
    /// Calibrations, with their folders.
    pub calibrations: Vec<(PathBuf, Option<Meta>, Calibration)>,
    /// Single runs: those of matrices and sweeps are told with them.
    pub runs: Vec<RunFolder>,
}

impl Results {
    /// All results in `folders` and below, each kind by path, which is by time.
    ///
    /// # Errors
    ///
    /// Names a folder or file that cannot be read or is malformed, or says that nothing was found.
    pub fn find(folders: &[PathBuf]) -> io::Result<Self> {
        let mut results = Self::default();
        let mut pending: Vec<PathBuf> = folders.to_vec();
        pending.sort();
        pending.dedup();
        pending.reverse();
        while let Some(folder) = pending.pop() {
            if !results.take(&folder)? {
                let mut below = subfolders(&folder)?;
                below.sort();
                pending.extend(below.into_iter().rev());
            }
        }
        if results.is_empty() {
            let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no results in {}", names.join(", "))));
        }
        Ok(results)
    }

    fn is_empty(&self) -> bool {
        self.matrices.is_empty()
            && self.sweeps.is_empty()
            && self.failovers.is_empty()
            && self.comparisons.is_empty()
            && self.calibrations.is_empty()
            && self.runs.is_empty()
    }

    /// Takes the result that `folder` is, and says whether it is one.
    fn take(&mut self, folder: &Path) -> io::Result<bool> {
        let has = |name: &str| folder.join(name).is_file();
        let meta = if has("meta.json") { Some(read_json(&folder.join("meta.json"))?) } else { None };
        if has("matrix.json") {
            self.matrices.push((folder.to_owned(), meta, read_json(&folder.join("matrix.json"))?));
        } else if has("sweep.json") {
            self.sweeps.push((folder.to_owned(), meta, read_json(&folder.join("sweep.json"))?));
        } else if has("failover.json") {
            self.failovers.push((folder.to_owned(), meta, read_json(&folder.join("failover.json"))?));
        } else if has("compare.json") {
            self.comparisons.push((folder.to_owned(), meta, read_json(&folder.join("compare.json"))?));
        } else if has("calibrate.json") {
            self.calibrations.push((folder.to_owned(), meta, read_json(&folder.join("calibrate.json"))?));
        } else if has("summary.json") {
            self.runs.push(RunFolder::read(folder)?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// Folders in `folder`. Links are not followed, so a loop of them cannot trap us.
fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", folder.display()));
    let mut below = Vec::new();
    for entry in fs::read_dir(folder).map_err(explain)? {
        let entry = entry.map_err(explain)?;
        if entry.file_type().map_err(explain)?.is_dir() {
            below.push(entry.path());
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_below_and_not_within_each_other() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let matrix = Matrix { scenario: "a matrix".to_owned(), runs: Vec::new(), stopped_early: false };
        let folder = root.path().join("deep/down/one");
        fs::create_dir_all(folder.join("runs/x")).expect("it can be made");
        fs::write(folder.join("matrix.json"), serde_json::to_vec(&matrix).expect("it has a JSON form"))
            .expect("it can be written");
        // Were it looked into, this would be an error.
        fs::write(folder.join("runs/x/summary.json"), "{").expect("it can be written");
        let results = Results::find(&[root.path().to_owned()]).expect("there is one");
        assert_eq!(results.matrices.len(), 1);
        assert_eq!(results.matrices[0].2, matrix);
    }

    #[test]
    fn nothing_found_and_nothing_readable_are_errors_that_name_the_place() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = Results::find(&[root.path().to_owned()]).expect_err("it is empty");
        assert!(error.to_string().contains(&*root.path().to_string_lossy()), "{error}");
        let error = Results::find(&["/nowhere/at/all".into()]).expect_err("it is not there");
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
        fs::write(root.path().join("sweep.json"), "[]").expect("it can be written");
        let error = Results::find(&[root.path().to_owned()]).expect_err("it is malformed");
        assert!(error.to_string().contains("sweep.json"), "{error}");
    }
}
