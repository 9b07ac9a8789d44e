//! What computes: instructions and threads.

use crate::error::LoadError;
use crate::kernels::{Kernels, Level};
use crate::threads::{ThreadTeam, physical_cores};

/// The instructions and the threads of one model.
pub(crate) struct Machine {
    pub(crate) level: Level,
    pub(crate) team: ThreadTeam,
}

impl Machine {
    /// What is asked for, or else the fastest instructions and a thread for each physical core.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] for instructions that this CPU lacks, [`LoadError::InvalidOption`] for
    /// no threads, [`LoadError::Threads`] when they cannot be had.
    pub(crate) fn new(kernels: Option<Kernels>, threads: Option<usize>) -> Result<Self, LoadError> {
        let level = kernels.unwrap_or_else(Kernels::detect).level()?;
        let threads = threads.unwrap_or_else(physical_cores);
        if threads == 0 {
            return Err(LoadError::InvalidOption {
                option: "threads",
                reason: "0, expected at least 1".to_owned(),
            });
        }
        let team = ThreadTeam::new(threads).map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })?;
        Ok(Self { level, team })
    }
}
