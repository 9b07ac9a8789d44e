//! The service that is measured.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Generate, Request, Time};

use super::Shared;

/// A service whose requests a [`Meter`](super::Meter) counts; made by
/// [`Meter::measure`](super::Meter::measure).
pub struct Measured {
    pub(super) service: Arc<dyn Generate>,
    pub(super) shared: Arc<Shared>,
}

impl Generate for Measured {
    fn generate(&self, request: Request) -> EventStream {
        let began = self.shared.router.now();
        self.shared.window.lock().arrived(began);
        // Before the call: should that panic, it is counted out again.
        let counted = Counted {
            shared: self.shared.clone(),
            began,
            stage: Stage::Waiting,
        };
        let unfinished = request.n;
        EventStream::new(Counting {
            stream: self.service.generate(request),
            counted,
            unfinished,
        })
    }
}

impl std::fmt::Debug for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measured").finish_non_exhaustive()
    }
}

/// One request, counted until it has ended or is dropped.
struct Counted {
    shared: Arc<Shared>,
    began: Time,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Answering,
    Ended,
}

impl Counted {
    fn answering(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Answering;
            let now = self.shared.router.now();
            let after = now.saturating_sub(self.began);
            self.shared.window.lock().answered(now, after);
        }
    }

    fn end(&mut self, error: Option<&Error>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        if stage == Stage::Ended {
            return;
        }
        let nobody = matches!(
            error,
            Some(Error::NoReplica { .. } | Error::Overloaded { .. })
        );
        let now = self.shared.router.now();
        let mut window = self.shared.window.lock();
        window.ended(now, stage == Stage::Waiting, nobody);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(None);
    }
}

struct Counting {
    // The stream is dropped before it counts as ended.
    stream: EventStream,
    counted: Counted,
    /// Choices that have not finished.
    unfinished: usize,
}

impl Stream for Counting {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = Pin::new(&mut this.stream).poll_next(cx);
        match &item {
            Poll::Ready(Some(Ok(event))) => {
                this.counted.answering();
                if let Event::Finished(_) = event {
                    this.unfinished = this.unfinished.saturating_sub(1);
                    if this.unfinished == 0 {
                        this.counted.end(None);
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => this.counted.end(Some(error)),
            Poll::Ready(None) => this.counted.end(None),
            Poll::Pending => {}
        }
        item
    }
}
