//! Refusing a request, or ranking and queueing it.

use llmserve_core::{KvLayout, Refusal, SchedRequest};

use super::ContinuousScheduler;
use super::sequence::Sequence;

impl ContinuousScheduler {
    /// Everything that can refuse comes first; nothing has changed then.
    pub(super) fn queue_up(
        &mut self,
        request: SchedRequest,
        layout: &KvLayout,
    ) -> Result<(), Refusal> {
        let config = &self.config;
        if !self.table.is_free(request.id.slot()) {
            return Err(Refusal::Duplicate(request.id));
        }
        if request.tokens == 0 {
            return Err(Refusal::NoTokens);
        }
        let needed = layout.blocks_for(request.tokens.saturating_add(1));
        let total = layout.blocks.iter().min().copied().unwrap_or(0);
        if needed > total {
            return Err(Refusal::NeverFits { needed, total });
        }
        if !config.chunked_prefill && request.tokens > config.max_batched_tokens {
            return Err(Refusal::ExceedsBudget {
                tokens: request.tokens,
                budget: config.max_batched_tokens,
            });
        }
        if request.choices > config.max_num_seqs {
            return Err(Refusal::TooManyChoices {
                choices: request.choices,
                max: config.max_num_seqs,
            });
        }
        let waiting = self.queue.len();
        if let Some(limit) = config.max_queue.filter(|limit| waiting >= *limit) {
            return Err(Refusal::QueueFull {
                waiting,
                limit,
                retry_after: self.service.room_for_one(),
            });
        }
        self.check_share(&request)?;
        let tokens = self.queue.tokens();
        let sum = tokens.saturating_add(request.tokens);
        let limit = self.config.max_queue_tokens.filter(|limit| sum > *limit);
        if let Some(limit) = limit.filter(|_| waiting > 0) {
            return Err(Refusal::QueueTokensFull {
                tokens,
                limit,
                retry_after: self.service.room_for(request.tokens, sum - limit),
            });
        }
        let ranked = self.policy.rank(&request);
        let rank = ranked.map_err(|message| Refusal::PolicyPanicked { message })?;
        let (slot, line) = (request.id.slot(), self.queue.join(request.tenant.as_ref()));
        let sequence = Sequence::new(request, rank, self.order, line);
        self.order += 1;
        self.table.insert(sequence);
        self.enqueue(slot);
        Ok(())
    }

    /// Refuses what would leave too little of the queue to other tenants.
    fn check_share(&mut self, request: &SchedRequest) -> Result<(), Refusal> {
        let room = |limit: Option<usize>, taken: usize| {
            limit.map_or(usize::MAX, |limit| limit.saturating_sub(taken))
        };
        let config = &self.config;
        let room = (
            room(config.max_queue, self.queue.len()),
            room(config.max_queue_tokens, self.queue.tokens()),
        );
        let standing = self.queue.standing(request.tenant.as_ref(), room);
        let Some(((requests, tokens), (most, most_tokens))) = standing else {
            return Ok(());
        };
        if requests >= most {
            return Err(Refusal::ShareFull {
                waiting: requests,
                limit: most,
                unit: "requests of this tenant",
                retry_after: self.service.room_for_one(),
            });
        }
        if tokens >= most_tokens {
            return Err(Refusal::ShareFull {
                waiting: tokens,
                limit: most_tokens,
                unit: "prompt tokens of this tenant",
                retry_after: self.service.room_for(request.tokens, request.tokens),
            });
        }
        Ok(())
    }
}
