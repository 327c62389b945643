//! Reads back what runs have written, for plots.

use std::fs;
use std::io;
use std::path::Path;

use super::TimePoint;

/// Pairs of quantile and microseconds from a percentile table (`.hgrm`).
///
/// # Errors
///
/// Names the file that cannot be read or is malformed.
pub fn percentiles(path: &Path) -> io::Result<Vec<(f64, f64)>> {
    let text = read(path)?;
    let rows = text.lines().filter(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()));
    let pair = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let latency_us = columns.next()?.parse().ok()?;
        Some((columns.next()?.parse().ok()?, latency_us))
    };
    rows.map(pair).collect::<Option<_>>().ok_or_else(|| malformed(path))
}

/// The rows of a `timeseries.csv`.
///
/// # Errors
///
/// Names the file that cannot be read or is malformed.
pub fn time_points(path: &Path) -> io::Result<Vec<TimePoint>> {
    let text = read(path)?;
    let mut lines = text.lines();
    let heading: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| heading.iter().position(|heading| *heading == name).ok_or_else(|| malformed(path));
    let places = [
        column("start_s")?,
        column("ok_per_s")?,
        column("response_p50_us")?,
        column("response_p99_us")?,
        column("response_max_us")?,
    ];
    let point = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        let value = |place: usize| cells.get(place)?.parse::<f64>().ok();
        let [start_s, ok_per_s, p50_us, p99_us, max_us] = places.map(value);
        Some(TimePoint { start_s: start_s?, ok_per_s: ok_per_s?, p50_us: p50_us?, p99_us: p99_us?, max_us: max_us? })
    };
    lines.map(point).collect::<Option<_>>().ok_or_else(|| malformed(path))
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

fn malformed(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is not what this program writes", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), text).expect("it can be written");
        file
    }

    #[test]
    fn percentile_tables_are_read_without_heading_and_footer() {
        let table = file(
            "     Value(us)       Percentile   TotalCount 1/(1-Percentile)\n\n        10.000   0.500000000000  5  2.00\n\
             \u{20}       90.500   1.000000000000  10\n#[Mean    = 1, StdDeviation = 2]\n",
        );
        assert_eq!(percentiles(table.path()).expect("it is well formed"), [(0.5, 10.0), (1.0, 90.5)]);
    }

    #[test]
    fn columns_are_found_by_name_and_missing_ones_named() {
        let table = file("x,response_max_us,start_s,ok_per_s,response_p50_us,response_p99_us\n1,5,0,100,2,4\n");
        let expected = TimePoint { start_s: 0.0, ok_per_s: 100.0, p50_us: 2.0, p99_us: 4.0, max_us: 5.0 };
        assert_eq!(time_points(table.path()).expect("it is well formed"), [expected]);
        for bad in ["a,b\n1,2\n", "start_s,ok_per_s,response_p50_us,response_p99_us,response_max_us\n1,2\n"] {
            let table = file(bad);
            let error = time_points(table.path()).expect_err("it is not");
            assert!(error.to_string().contains(&*table.path().to_string_lossy()), "{error}");
        }
    }
}
