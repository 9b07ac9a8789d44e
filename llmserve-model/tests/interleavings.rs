//! The thread team, run by a scheduler that chooses who goes on: some thousand orders at random,
//! and orders with few switches at the most awkward places. Nobody may wait for ever, every task
//! runs once, and what a job borrows is not touched after it returned.
//!
//! The team's flags are sequentially consistent, and so is the scheduler's memory. (A checker of
//! weaker memory models that takes them for acquire and release would see deadlocks that cannot
//! be.)

#[path = "../src/threads/team.rs"]
#[allow(dead_code, unreachable_pub)]
mod team;

/// What the team shares and waits with, driven by the scheduler.
mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    pub(super) use shuttle::thread;

    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics with a lock")
        }
    }

    /// Looks once: every order in which a thread goes to sleep is one to be tried.
    #[derive(Default)]
    pub(super) struct Patience {}

    impl Patience {
        pub(super) fn lasts(&mut self) -> bool {
            false
        }
    }
}

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use team::ThreadTeam;

/// Runs `body` in orders chosen at random and in ones chosen to be awkward.
fn explore(body: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(body.clone(), 2000);
    shuttle::check_pct(body, 2000, 3);
}

/// Every task of every job runs once and ends before the job does.
fn jobs(threads: usize, sizes: &[usize]) {
    let mut team = ThreadTeam::new(threads).expect("threads are made");
    for &tasks in sizes {
        let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let alive = AtomicBool::new(true);
        team.run(tasks, |task, worker| {
            assert!(worker < threads && alive.load(Ordering::SeqCst));
            runs[task].fetch_add(1, Ordering::SeqCst);
        })
        .expect("no task panics");
        alive.store(false, Ordering::SeqCst);
        assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) == 1));
    }
}

#[test]
fn every_task_runs_once_and_nobody_waits_for_ever() {
    explore(|| jobs(2, &[2, 3]));
    explore(|| jobs(3, &[3, 2, 4]));
}

#[test]
fn a_team_without_work_ends() {
    explore(|| drop(ThreadTeam::new(3)));
}

#[test]
fn a_panic_is_the_jobs_alone() {
    explore(|| {
        let mut team = ThreadTeam::new(2).expect("threads are made");
        let failed = team.run(3, |task, _| {
            if task == 1 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        });
        assert_eq!(failed.expect_err("a task panics").message, "on purpose");
        let runs = AtomicUsize::new(0);
        let done = team.run(3, |_, _| {
            runs.fetch_add(1, Ordering::SeqCst);
        });
        assert!(done.is_ok() && runs.load(Ordering::SeqCst) == 3);
    });
}
