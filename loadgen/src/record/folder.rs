//! The folder of a result: one file per question.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::meta::utc;
use super::{Checkout, Event, IntervalRow, Latency, Meta, RunRecord, Summary};

/// `20260131T235959Z`: a moment as part of a file name, sorting by time.
pub fn utc_compact(time: SystemTime) -> String {
    utc(time).chars().filter(char::is_ascii_alphanumeric).collect()
}

/// `<utc>-<sha7>-<scenario>`: the name of a result folder.
pub fn folder_name(time: SystemTime, checkout: Option<&Checkout>, scenario: &str) -> String {
    let sha7 = checkout.map_or("nogit", Checkout::sha7);
    let mut slug: String = scenario
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter.to_ascii_lowercase() } else { '-' })
        .collect();
    while slug.contains("--") {
        slug = slug.replace("--", "-");
    }
    slug.truncate(100);
    format!("{}-{sha7}-{}", utc_compact(time), slug.trim_matches('-'))
}

/// A folder that is being written.
#[derive(Debug, Clone)]
pub struct ResultFolder {
    path: PathBuf,
}

impl ResultFolder {
    /// Creates `parent/name`, with a number behind it when that exists already.
    ///
    /// # Errors
    ///
    /// Names the folder that could not be created.
    pub fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let explain = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create the result folder {}: {error}", path.display()))
        };
        fs::create_dir_all(parent).map_err(|error| explain(parent, error))?;
        for attempt in 1.. {
            let path = if attempt == 1 { parent.join(name) } else { parent.join(format!("{name}-{attempt}")) };
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(explain(&path, error)),
            }
        }
        unreachable!("some number is free")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `contents` as the file `name`.
    ///
    /// # Errors
    ///
    /// Names the file that could not be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> io::Result<()> {
        self.write_with(name, |out| out.write_all(contents.as_ref()))
    }

    /// Writes `value` as indented JSON.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_json(&self, name: &str, value: &impl serde::Serialize) -> io::Result<()> {
        self.write_with(name, |out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }

    /// Writes the files of a run: meta, summary, histograms, time series and events.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_run(&self, meta: &Meta, summary: &Summary, record: &RunRecord) -> io::Result<()> {
        self.write_json("meta.json", meta)?;
        self.write_json("summary.json", summary)?;
        self.write_with("run.hlog", |out| write_interval_log(out, record, &summary.scenario))?;
        for (name, histogram) in [
            ("response", &record.histograms.response()),
            ("service", &record.histograms.service),
            ("lateness", &record.histograms.lateness),
        ] {
            self.write_with(&format!("{name}.hgrm"), |out| write_percentiles(out, histogram))?;
        }
        self.write_with("timeseries.csv", |out| write_time_series(out, &record.intervals))?;
        self.write_with("events.jsonl", |out| write_events(out, &record.events))
    }

    fn write_with(&self, name: &str, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
        let path = self.path.join(name);
        let result = File::create(&path).and_then(|file| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        });
        result.map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
    }
}

fn write_interval_log(out: &mut impl Write, record: &RunRecord, scenario: &str) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut header = Vec::new();
    IntervalLogWriterBuilder::new()
        .add_comment(&format!("[Lockstep loadgen: {scenario}; values in nanoseconds]"))
        .with_base_time(record.started_at + std::time::Duration::from_nanos(record.window.start_ns))
        .begin_log_with(&mut header, &mut serializer)?;
    out.write_all(&header)?;
    out.write_all(&record.interval_log)
}

/// The percentile table that HdrHistogram's plotting tools read; values in microseconds.
fn write_percentiles(out: &mut impl Write, histogram: &Histogram<u64>) -> io::Result<()> {
    writeln!(out, "{:>14} {:>16} {:>12} {:>16}\n", "Value(us)", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value_us = step.value_iterated_to() as f64 / 1e3;
        if quantile < 1.0 {
            writeln!(out, "{value_us:>14.3} {quantile:>16.12} {total:>12} {:>16.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value_us:>14.3} {quantile:>16.12} {total:>12}")?;
        }
    }
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    writeln!(out, "#[Max     = {:>12.3}, Total count    = {:>12}]", histogram.max() as f64 / 1e3, histogram.len())
}

fn write_time_series(out: &mut impl Write, rows: &[IntervalRow]) -> io::Result<()> {
    writeln!(
        out,
        "start_s,length_s,ok_per_s,ok,missing,corrupt,failed,busy,unknown,\
         response_mean_us,response_p50_us,response_p90_us,response_p99_us,response_p999_us,response_max_us,\
         service_p50_us,service_p99_us,lateness_p99_us"
    )?;
    for row in rows {
        let (counts, response) = (&row.counts, &row.response);
        write!(out, "{:.3},{:.3},{:.1},", row.start_s, row.length_s, row.ok_per_s)?;
        write!(out, "{},{},{},", counts.ok, counts.missing, counts.corrupt)?;
        write!(out, "{},{},{},", counts.failed, counts.busy, counts.unknown)?;
        let Latency { mean_us, p50_us, p90_us, p99_us, p999_us, max_us, .. } = response;
        write!(out, "{mean_us:.3},{p50_us:.3},{p90_us:.3},{p99_us:.3},{p999_us:.3},{max_us:.3},")?;
        writeln!(out, "{:.3},{:.3},{:.3}", row.service.p50_us, row.service.p99_us, row.lateness.p99_us)?;
    }
    Ok(())
}

fn write_events(out: &mut impl Write, events: &[Event]) -> io::Result<()> {
    for event in events {
        serde_json::to_writer(&mut *out, event)?;
        writeln!(out)?;
    }
    Ok(())
}

/// A run's folder, read back.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// Where it is.
    pub path: PathBuf,
    /// `meta.json`.
    pub meta: Meta,
    /// `summary.json`.
    pub summary: Summary,
}

impl RunFolder {
    /// Reads the folder of one run.
    ///
    /// # Errors
    ///
    /// Names the file that is missing or malformed.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            meta: read_json(&path.join("meta.json"))?,
            summary: read_json(&path.join("summary.json"))?,
        })
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()));
    let text = fs::read(path).map_err(explain)?;
    serde_json::from_slice(&text).map_err(|error| explain(error.into()))
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, Outcome, Side, Timing, VerdictRules, Window, channel};
    use super::*;
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    fn record() -> RunRecord {
        let window = Window { start_ns: 0, end_ns: 3_000_000, interval_ns: 1_000_000 };
        let (mut recorders, collector) = channel(window, 1);
        let mut recorder = recorders.remove(0);
        for at in 0..3000u64 {
            recorder.tick(at * 1000);
            let (intended_ns, done_ns) = (at * 1000, at * 1000 + 200_000 + at);
            let timing = Timing { intended_ns, noticed_ns: intended_ns, sent_ns: intended_ns, done_ns };
            recorder.record(timing, Side::Write, Outcome::Ok);
        }
        drop(recorder);
        let mut record = collector.run(Instant::now(), &[], |_| {});
        record.events.push(Event { at_s: 0.5, kind: "note".to_owned(), text: "a \"quoted\" line\nbreak".to_owned() });
        record
    }

    fn meta() -> Meta {
        Meta {
            command_line: vec!["lockstep-loadgen".to_owned(), "run".to_owned()],
            seed: 7,
            started_at: utc(SystemTime::UNIX_EPOCH),
            loadgen_version: "0".to_owned(),
            checkout: None,
            machine: Machine::this(),
            data_file_system: None,
            load: serde_json::json!({"rate": 1000}),
            servers: BTreeMap::new(),
        }
    }

    #[test]
    fn names_sort_by_time_and_hold_no_odd_letters() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let checkout = Checkout { sha: "0123456789abcdef".to_owned(), dirty: false };
        assert_eq!(
            folder_name(time, Some(&checkout), "3 servers, majority/parallel"),
            "20231114T221320Z-0123456-3-servers-majority-parallel"
        );
        assert_eq!(folder_name(time, None, "../x"), "20231114T221320Z-nogit-..-x");
    }

    #[test]
    fn a_run_is_written_and_read_back() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let record = record();
        let summary = Summary::of(&record, "a test", Some(1_000_000.0), &VerdictRules::default());
        let folder = ResultFolder::create(parent.path(), "one").expect("it can be created");
        folder.write_run(&meta(), &summary, &record).expect("it can be written");
        let second = ResultFolder::create(parent.path(), "one").expect("a second one gets a number");
        assert!(second.path().ends_with("one-2"));

        let run = RunFolder::read(folder.path()).expect("it can be read");
        assert_eq!(run.summary, summary);
        assert_eq!(run.meta, meta());

        let read = |name| fs::read_to_string(folder.path().join(name)).expect("the file is there");
        assert_eq!(read("timeseries.csv").lines().count(), 1 + record.intervals.len());
        assert_eq!(read("events.jsonl").lines().count(), 1, "a line break inside an event is escaped");
        let table = read("response.hgrm");
        assert!(table.contains("1.000000000000         3000"), "{table}");
        assert!(read("run.hlog").lines().any(|line| line.starts_with("Tag=service,")));
    }

    #[test]
    fn columns_of_the_time_series_match_their_heading() {
        let mut out = Vec::new();
        write_time_series(&mut out, &record().intervals).expect("memory can be written");
        let text = String::from_utf8(out).expect("it is text");
        let columns: Vec<_> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.iter().all(|&count| count == columns[0]), "{text}");
    }

    #[test]
    fn a_malformed_summary_is_named() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        fs::write(parent.path().join("meta.json"), serde_json::to_vec(&meta()).expect("meta has a JSON form"))
            .expect("it can be written");
        fs::write(parent.path().join("summary.json"), "{").expect("it can be written");
        let error = RunFolder::read(parent.path()).expect_err("half a file is no summary");
        assert!(error.to_string().contains("summary.json"), "{error}");
    }
}
