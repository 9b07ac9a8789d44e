//! One model, as far as the cache knows it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Error, LoadProgress, Time};

use super::worth::Decayed;

/// A request that waits for its model.
#[derive(Debug)]
pub(in crate::models) struct Waiting<T> {
    /// Its number, by which it gives up.
    pub(in crate::models) id: u64,
    /// When it is given up, and the time that there was.
    pub(in crate::models) until: Option<(Time, Duration)>,
    pub(in crate::models) ticket: T,
}

/// Where a model is.
#[derive(Debug)]
pub(super) enum Phase<S> {
    Absent,
    Loading {
        /// What it is expected to take.
        bytes: u64,
        progress: Arc<LoadProgress>,
        began: Time,
        /// Whether anybody asked for it, or it is loaded on suspicion.
        asked: bool,
    },
    Loaded {
        service: S,
        bytes: u64,
        /// Requests it has not finished.
        in_use: usize,
        /// It gets nothing new, and goes when it is idle.
        closing: bool,
    },
    Unloading {
        bytes: u64,
    },
}

/// What is known of a model's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Unknown,
    /// The loader is being asked.
    Asking,
    /// Bytes: estimated, or as they were when it was loaded last.
    Known(u64),
}

/// Loads that failed since the last that did not.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u32,
    /// Not to be tried again before.
    pub(super) until: Time,
    pub(super) last: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Entry<S, T> {
    pub(super) phase: Phase<S>,
    pub(super) waiting: VecDeque<Waiting<T>>,
    /// Since when it is in line, if it is.
    pub(super) in_line: Option<Time>,
    pub(super) pinned: bool,
    /// To be loaded once there is room that nobody else wants.
    pub(super) wished: bool,
    pub(super) asked: Decayed,
    pub(super) worth: f64,
    pub(super) size: Size,
    /// How long its last load took.
    pub(super) load: Option<Duration>,
    pub(super) failures: Failures,
}

impl<S, T> Default for Entry<S, T> {
    fn default() -> Self {
        Self {
            phase: Phase::Absent,
            waiting: VecDeque::new(),
            in_line: None,
            pinned: false,
            wished: false,
            asked: Decayed::default(),
            worth: 0.0,
            size: Size::Unknown,
            load: None,
            failures: Failures::default(),
        }
    }
}

impl<S, T> Entry<S, T> {
    /// Bytes it takes or has been promised.
    pub(super) fn bytes(&self) -> u64 {
        match &self.phase {
            Phase::Absent => 0,
            Phase::Loading { bytes, .. }
            | Phase::Loaded { bytes, .. }
            | Phase::Unloading { bytes } => *bytes,
        }
    }

    /// Bytes that will be free without anybody doing anything more about it.
    pub(super) fn releasing(&self) -> u64 {
        match &self.phase {
            Phase::Unloading { bytes } => *bytes,
            Phase::Loaded {
                bytes,
                in_use: 0,
                closing: true,
                ..
            } => *bytes,
            Phase::Loading {
                bytes, progress, ..
            } if progress.is_cancelled() => *bytes,
            _ => 0,
        }
    }

    /// Whether it answers requests that come now.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Loaded { closing: false, .. })
    }

    /// Whether it was loaded for requests that are to be started next.
    pub(super) fn has_just_come(&self) -> bool {
        self.is_open() && self.in_line.is_none() && !self.waiting.is_empty()
    }

    /// Whether forgetting it loses nothing but how often it was asked for.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self.phase, Phase::Absent)
            && self.waiting.is_empty()
            && self.in_line.is_none()
            && !self.pinned
            && !self.wished
            && self.size != Size::Asking
    }
}
