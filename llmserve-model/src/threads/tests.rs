use super::sync::{Patience, SPIN};
use super::team::MAX_THREADS;
use super::*;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn every_task_runs_exactly_once() {
    for threads in [1, 2, 3, 8] {
        let mut team = ThreadTeam::new(threads).unwrap();
        assert_eq!(team.threads(), threads);
        for tasks in [0, 1, 2, 7, 64, 1000] {
            let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            team.run(tasks, |task, worker| {
                assert!(worker < threads);
                runs[task].fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_short_jobs_in_a_row_see_each_others_writes() {
    let mut team = ThreadTeam::new(4).unwrap();
    let mut cells = vec![0u64; 16];
    for round in 0..20_000u64 {
        let cells = Disjoint::new(&mut cells);
        team.run(16, |task, _| {
            // SAFETY: each task its own element.
            let cell = unsafe { cells.part(task..task + 1) };
            assert_eq!(cell[0], round);
            cell[0] += 1;
        })
        .unwrap();
    }
    assert!(cells.iter().all(|&cell| cell == 20_000));
}

#[test]
fn workers_that_went_to_sleep_wake_up() {
    let mut team = ThreadTeam::new(3).unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(2));
        let workers = Mutex::new(std::collections::BTreeSet::new());
        team.run(3, |_, worker| {
            workers.lock().insert(worker);
            // Longer than a wake-up, or the caller would do everything.
            thread::sleep(Duration::from_millis(1));
        })
        .unwrap();
        assert!(!workers.into_inner().is_empty());
    }
}

#[test]
fn a_worker_index_belongs_to_one_thread_at_a_time() {
    let mut team = ThreadTeam::new(6).unwrap();
    let busy: Vec<AtomicBool> = (0..6).map(|_| AtomicBool::new(false)).collect();
    for _ in 0..200 {
        team.run(50, |_, worker| {
            assert!(!busy[worker].swap(true, Ordering::SeqCst));
            std::hint::spin_loop();
            assert!(busy[worker].swap(false, Ordering::SeqCst));
        })
        .unwrap();
    }
}

#[test]
fn a_panic_is_an_error_and_the_team_lives_on() {
    for threads in [1, 2, 5] {
        let mut team = ThreadTeam::new(threads).unwrap();
        for round in 0..50 {
            let error = team
                .run(40, |task, _| {
                    if task == round % 40 {
                        std::panic::panic_any(format!("task {task} broke"));
                    }
                })
                .unwrap_err();
            assert_eq!(error.message, format!("task {} broke", round % 40));
            team.run(8, |_, _| {}).unwrap();
        }
        // Everybody at once.
        assert!(team.run(40, |_, _| panic!("all")).is_err());
        team.run(8, |_, _| {}).unwrap();
    }
}

/// Panics when it is dropped, with another of its kind.
struct Spiteful(u32);

impl Drop for Spiteful {
    fn drop(&mut self) {
        if !thread::panicking() {
            std::panic::panic_any(Spiteful(self.0 + 1));
        }
    }
}

#[test]
fn a_payload_that_panics_when_dropped_holds_nobody_up() {
    for threads in [1, 2, 5] {
        let mut team = ThreadTeam::new(threads).unwrap();
        for _ in 0..20 {
            let error = team.run(40, |_, _| {
                // Long enough for workers to take part.
                thread::sleep(Duration::from_micros(200));
                std::panic::panic_any(Spiteful(0));
            });
            assert_eq!(error.unwrap_err().message, "no message");
            team.run(8, |_, _| {}).unwrap();
        }
    }
}

#[test]
fn patience_is_a_matter_of_time() {
    let mut patience = Patience::default();
    let began = Instant::now();
    while patience.lasts() {}
    assert!(began.elapsed() >= SPIN);
}

#[test]
fn the_caller_waits_for_slow_workers() {
    let mut team = ThreadTeam::new(2).unwrap();
    for _ in 0..10 {
        let done = AtomicUsize::new(0);
        team.run(2, |_, _| {
            thread::sleep(Duration::from_millis(3));
            done.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(done.into_inner(), 2);
    }
}

#[test]
fn dropping_joins_quickly() {
    let began = Instant::now();
    for _ in 0..50 {
        let mut team = ThreadTeam::new(4).unwrap();
        team.run(4, |_, _| {}).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(ThreadTeam::new(0).is_err());
    assert!(ThreadTeam::new(MAX_THREADS + 1).is_err());
}

#[test]
fn physical_cores_are_some_of_those_allowed() {
    let allowed = thread::available_parallelism().unwrap().get();
    assert!((1..=allowed).contains(&physical_cores()));
}
