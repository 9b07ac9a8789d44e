//! A request that has been counted at a replica.

use std::sync::{Arc, Weak};

use llmserve_core::{Request, Time};
use parking_lot::Mutex;

use super::shared::Shared;
use super::silence::Sign;
use crate::fleet::Slot;
use crate::outcome::{Answering, End, Outcome};
use crate::replica::Replica;

/// A decision: who answers. The request counts there until this is dropped or
/// [ended](Self::end).
///
/// What [`Router::assign`](crate::Router::assign) gives to a host that passes requests on by
/// itself, such as a proxy or a simulation; [`generate`](llmserve_core::Generate::generate) does
/// all of it.
#[must_use = "dropped, the request no longer counts"]
pub struct Assigned {
    shared: Arc<Shared>,
    slot: Slot,
    replica: Arc<Replica>,
    renamed: Option<Arc<str>>,
    counted: Arc<Counted>,
    began: Time,
    permit: u64,
    credit: u64,
    others: bool,
    answering: Option<Time>,
    ended: bool,
    /// Where it is said that the replica was heard, if anybody wants to know.
    sign: Option<Sign>,
}

/// The count of a request, taken back once.
struct Counted {
    /// Weak, since a replica keeps it for as long as it works.
    shared: Weak<Shared>,
    slot: Slot,
    /// None once it has been taken back.
    tokens: Mutex<Option<u64>>,
}

impl Counted {
    fn release(&self) {
        let tokens = self.tokens.lock().take();
        if let (Some(tokens), Some(shared)) = (tokens, self.shared.upgrade()) {
            shared.released(self.slot, tokens);
        }
    }
}

impl Assigned {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, and every one a field"
    )]
    pub(super) fn new(
        shared: Arc<Shared>,
        slot: Slot,
        replica: Arc<Replica>,
        renamed: Option<Arc<str>>,
        tokens: u64,
        began: Time,
        (permit, credit): (u64, u64),
        others: bool,
    ) -> Self {
        Self {
            counted: Arc::new(Counted {
                shared: Arc::downgrade(&shared),
                slot,
                tokens: Mutex::new(Some(tokens)),
            }),
            shared,
            slot,
            replica,
            renamed,
            began,
            permit,
            credit,
            others,
            answering: None,
            ended: false,
            sign: None,
        }
    }

    pub(super) fn heard_by(mut self, sign: Option<Sign>) -> Self {
        self.sign = sign;
        self
    }

    /// Where the replica is in the fleet.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Who answers.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The model the replica is to be asked for, where it is another name than the request's: by
    /// an alias, or because another model stands in.
    pub fn model(&self) -> Option<&str> {
        self.renamed.as_deref()
    }

    /// When it was decided, by the router's clock.
    pub fn began(&self) -> Time {
        self.began
    }

    /// Whether there were others to choose from.
    pub fn had_others(&self) -> bool {
        self.others
    }

    /// The request as the replica is to get it.
    pub fn address(&self, mut request: Request) -> Request {
        if let Some(model) = self.model() {
            request.model = Some(model.to_owned());
        }
        request
    }

    /// What to call when the replica has nothing more to do for the request, though its end has
    /// not been read: then it counts no longer.
    pub(crate) fn on_end(&self) -> impl Fn() + Send + Sync + 'static {
        let counted = self.counted.clone();
        move || counted.release()
    }

    /// The replica said something: it is not [silent](crate::reliability::Timeouts::avoid_after).
    /// [`answering`](Self::answering) says so too, of the first event.
    pub fn heard(&self) {
        if let Some(sign) = &self.sign {
            sign.heard(self.shared.timer.now());
        }
    }

    /// The first event came. Later calls do nothing.
    pub fn answering(&mut self) {
        self.heard();
        if self.answering.is_none() && !self.ended {
            let now = self.shared.timer.now();
            self.answering = Some(now);
            let answering = Answering {
                after: now.saturating_sub(self.began),
                now,
                credit: self.credit,
            };
            self.shared.answering(self.slot, &answering);
        }
    }

    /// The request ended like this and counts no longer. Later calls do nothing.
    pub fn end(&mut self, end: End<'_>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if matches!(end, End::Finished | End::Refused(_)) {
            self.heard();
        }
        let now = self.shared.timer.now();
        let outcome = Outcome {
            end,
            now,
            answering: self.answering.map(|at| at.saturating_sub(self.began)),
            duration: now.saturating_sub(self.began),
            permit: self.permit,
            credit: self.credit,
        };
        let tokens = self.counted.tokens.lock().take();
        self.shared.ended(self.slot, tokens, &outcome);
    }

    /// The replica failed, now or after the request had ended well.
    pub(crate) fn fail(&mut self, error: &llmserve_core::Error) {
        if self.ended {
            self.shared.count_failure(self.slot);
        } else {
            self.end(End::Failed(error));
        }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}

impl std::fmt::Debug for Assigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assigned")
            .field("slot", &self.slot)
            .field("replica", &self.replica.info.name)
            .finish_non_exhaustive()
    }
}
