//! The settings under comparison.

use std::fmt;
use std::time::Duration;

use lockstep_loadgen::cluster::Batching;
use lockstep_proto::limits::BATCH_OPS_MAX;

/// Largest number of requests in a prepare; the last is the bound of the protocol, which no batch reaches here.
const BATCHES: [u32; 5] = [1, 8, 64, 512, BATCH_OPS_MAX as u32];

const LINGERS_US: [u64; 3] = [0, 50, 200];

const PIPELINES: [u32; 3] = [1, 4, 16];

/// How far batches grow while others are on their way, with all else at the server's defaults.
const GATHERS: [u32; 3] = [16, 64, 256];

/// One setting of batching. Shown as part of a bench's name: `batch=64/linger=50us/pipeline=4`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    batch: u32,
    linger_us: u64,
    pipeline: u32,
    gather: u32,
}

/// Every setting: all of batch, linger and pipeline, where no batch gathers, and then batches that do.
pub fn settings() -> impl Iterator<Item = Setting> {
    let apart = BATCHES.into_iter().flat_map(|batch| {
        LINGERS_US.into_iter().flat_map(move |linger_us| {
            PIPELINES.into_iter().map(move |pipeline| Setting { batch, linger_us, pipeline, gather: 0 })
        })
    });
    let gathering = |gather| Setting { batch: BATCH_OPS_MAX as u32, linger_us: 0, pipeline: 16, gather };
    apart.chain(GATHERS.into_iter().map(gathering))
}

impl Setting {
    /// As the cluster takes it.
    pub fn batching(&self) -> Batching {
        Batching {
            max_ops: Some(self.batch),
            max_bytes: None,
            linger: Some(Duration::from_micros(self.linger_us)),
            gather: Some(self.gather),
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
        write!(out, "/linger={}us/pipeline={}", self.linger_us, self.pipeline)?;
        if self.gather > 0 { write!(out, "/gather={}", self.gather) } else { Ok(()) }
    }
}
