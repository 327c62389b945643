//! The settings under comparison.

use std::fmt;
use std::time::Duration;

use lockstep_loadgen::cluster::Batching;
use lockstep_proto::limits::BATCH_OPS_MAX;

/// Largest number of requests in a prepare; the last is the bound of the protocol, which no batch reaches here.
const BATCHES: [u32; 5] = [1, 8, 64, 512, BATCH_OPS_MAX as u32];

const LINGERS_US: [u64; 3] = [0, 50, 200];

const PIPELINES: [u32; 3] = [1, 4, 16];

/// One setting of batching. Shown as part of a bench's name: `batch=64/linger=50us/pipeline=4`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    batch: u32,
    linger_us: u64,
    pipeline: u32,
}

/// Every setting.
pub fn settings() -> impl Iterator<Item = Setting> {
    BATCHES.into_iter().flat_map(|batch| {
        LINGERS_US.into_iter().flat_map(move |linger_us| {
            PIPELINES.into_iter().map(move |pipeline| Setting { batch, linger_us, pipeline })
        })
    })
}

impl Setting {
    /// As the cluster takes it.
    pub fn batching(&self) -> Batching {
        Batching {
            max_ops: Some(self.batch),
            max_bytes: None,
            linger: Some(Duration::from_micros(self.linger_us)),
            pipeline: Some(self.pipeline),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.batch as usize {
            BATCH_OPS_MAX => out.write_str("batch=unlimited")?,
            batch => write!(out, "batch={batch}")?,
        }
        write!(out, "/linger={}us/pipeline={}", self.linger_us, self.pipeline)
    }
}
