//! What is refused, and that a refusal changes nothing.

use llmserve_core::{KvManager, Refusal, SchedRequest, Scheduler};

use crate::testing::{Rig, id, with};
use crate::{ContinuousScheduler, Policy, Rank};

#[test]
fn a_prompt_that_can_never_fit_is_refused_with_both_numbers() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    let refusal = rig
        .try_submit(SchedRequest::new(id(0), 160, 1))
        .expect_err("one too many");
    let numbers = Refusal::NeverFits {
        needed: 11,
        total: 10,
    };
    assert_eq!(refusal, numbers);
    assert_eq!(
        refusal.to_string(),
        "the prompt needs 11 KV blocks and the cache has 10"
    );
    rig.submit(0, 159, 1);
    assert_eq!(rig.step(), [(0, 159)]);
}

/// It could never have a row, and would wait for ever.
#[test]
fn a_request_without_a_token_is_refused() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    let refusal = rig.try_submit(SchedRequest::new(id(0), 0, 1));
    assert_eq!(refusal, Err(Refusal::NoTokens));
    assert_eq!(rig.counts(), (0, 0));
    rig.submit(0, 1, 1);
    assert_eq!(rig.step(), [(0, 1)]);
}

#[test]
fn without_chunks_a_prompt_longer_than_the_budget_is_refused() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(64)
        .chunked_prefill(false);
    let mut rig = Rig::new(builder, 10);
    let refusal = rig.try_submit(SchedRequest::new(id(0), 65, 1));
    let numbers = Refusal::ExceedsBudget {
        tokens: 65,
        budget: 64,
    };
    assert_eq!(refusal, Err(numbers));
    rig.submit(0, 64, 1);
}

#[test]
fn more_choices_than_seats_are_refused() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_num_seqs(3), 10);
    let choices = |choices| with(SchedRequest::new(id(0), 5, 1), |r| r.choices = choices);
    let refusal = rig.try_submit(choices(4));
    assert_eq!(refusal, Err(Refusal::TooManyChoices { choices: 4, max: 3 }));
    assert_eq!(rig.try_submit(choices(3)), Ok(()));
}

#[test]
fn a_full_queue_refuses_until_someone_is_admitted() {
    let builder = ContinuousScheduler::builder().max_queue(2).max_num_seqs(1);
    let mut rig = Rig::new(builder, 10);
    rig.submit(0, 5, 1);
    rig.submit(1, 5, 1);
    let third = SchedRequest::new(id(2), 5, 1);
    let full = Refusal::QueueFull {
        waiting: 2,
        limit: 2,
        retry_after: None,
    };
    assert_eq!(rig.try_submit(third.clone()), Err(full));
    rig.step();
    assert_eq!(rig.try_submit(third), Ok(()));
    assert_eq!(rig.counts(), (1, 2));
}

#[test]
fn a_sequence_is_scheduled_once_waiting_or_running() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 5, 9);
    let again = SchedRequest::new(id(0), 5, 9);
    assert_eq!(
        rig.scheduler.submit(again.clone(), &rig.kv),
        Err(Refusal::Duplicate(id(0)))
    );
    rig.step();
    assert_eq!(
        rig.scheduler.submit(again, &rig.kv),
        Err(Refusal::Duplicate(id(0)))
    );
    assert!(rig.kv.is_open(id(0)));
    assert_eq!(rig.counts(), (1, 0));
}

/// Panics over requests of 13 tokens, and over every victim.
struct Superstitious;

impl Policy for Superstitious {
    fn rank(&self, request: &SchedRequest) -> Rank {
        assert_ne!(request.tokens, 13, "unlucky");
        Rank::default()
    }

    fn victim(&self, _: &[crate::Candidate]) -> Option<usize> {
        panic!("not me")
    }
}

#[test]
fn a_policy_that_panics_harms_that_request_alone() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Superstitious), 10);
    rig.submit(0, 5, 9);
    let refusal = rig
        .try_submit(SchedRequest::new(id(1), 13, 1))
        .expect_err("panicked");
    assert!(matches!(&refusal, Refusal::PolicyPanicked { message } if message.contains("unlucky")));
    assert_eq!(rig.scheduler.policy_panics(), 1);
    rig.submit(1, 6, 9);
    assert_eq!(rig.step(), [(0, 5), (1, 6)]);
}

#[test]
fn a_policy_that_panics_over_a_victim_gets_the_default_one() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Superstitious), 10);
    rig.submit(0, 80, 9);
    rig.submit(1, 80, 9);
    rig.step();
    assert_eq!(rig.step(), [(0, 1)]);
    assert_eq!(rig.preempted(), [1]);
    assert_eq!(rig.scheduler.policy_panics(), 1);
}
