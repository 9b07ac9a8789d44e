//! Pieces that the benches share: flags, random lengths, recorded steps and what they cost at
//! best, rows for people and for machines.

mod cost;
mod format;
mod line;
mod live;
mod memory;
mod report;
mod run;
mod shape;
mod steps;
mod subject;
mod workload;

pub use cost::{Cost, Work};
pub use format::{Format, Packing};
pub use line::{Line, median};
pub use live::{CountingAllocator, Live};
pub use llmserve_examples::plot::{Marker, Point, Roofline};
pub use memory::{peak_rss, reset_peak_rss};
pub use report::Report;
pub use run::{Phase, Run};
pub use shape::Shape;
pub use steps::{Step, StepLog, TimedModel};
pub use subject::{Observed, Subject, SubjectArgs};
pub use workload::{Workload, embedded_model};

use std::path::PathBuf;

use clap::Args;

/// Flags every bench has.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// A model folder. Default: the embedded model.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Print one JSON object a row.
    #[arg(long)]
    pub json: bool,
    /// A tenth of the work: does it run at all?
    #[arg(long)]
    pub quick: bool,
    /// Seed of the workload.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Common {
    /// The model folder.
    pub fn folder(&self) -> PathBuf {
        self.model.clone().unwrap_or_else(embedded_model)
    }
}
