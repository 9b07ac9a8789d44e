//! A team of threads that run one step's work together.
//!
//! ```text
//!  caller      run(tasks, f) ─ open ──► claim ─ f ─ claim ─ f ─ close ─ wait ──► result
//!                                │        ▲ one atomic counter ▲          │
//!  worker 1   spin, then park ───┴► enter ─ claim ─ f ─ claim ─ f ─ leave ─┤
//!  worker 2   asleep …                        (found it closed: sleeps on) ┘
//! ```
//!
//! The calling thread works too, and waits only for workers that *entered*: one that the operating
//! system has not woken yet holds nobody up. A forward pass calls [`ThreadTeam::run`] several times
//! a layer, so both ends are a few atomic operations while the workers are still spinning.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sync::thread::{self, JoinHandle, Thread};
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Patience};
use llmserve_core::error::panic_message;

/// Most threads of a team; the count of those inside a job has this many values in the state.
pub(super) const MAX_THREADS: usize = 1 << 12;

/// Set while a job takes workers in.
const OPEN: u64 = 1 << 16;
/// One job further.
const EPOCH: u64 = 1 << 32;
/// The workers inside the job.
const ENTERED: u64 = OPEN - 1;

/// A task of a team panicked. The other tasks that had begun were finished, the rest not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task of the thread team panicked: {message}")]
pub struct TaskPanicked {
    /// The panic's message.
    pub message: String,
}

/// A fixed set of threads, the calling one among them, that share out tasks.
///
/// Taking `&mut self`, [`run`](Self::run) can be neither nested nor called by two threads at once.
/// Dropping the team ends and joins its threads.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use llmserve_model::ThreadTeam;
///
/// let mut team = ThreadTeam::new(3)?;
/// let sum = AtomicUsize::new(0);
/// team.run(100, |task, _worker| {
///     sum.fetch_add(task, Ordering::Relaxed);
/// })?;
/// assert_eq!(sum.into_inner(), 4950);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ThreadTeam {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Its own cache lines (two, since neighbouring lines are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Job number, open flag, workers inside.
    state: Padded<AtomicU64>,
    /// The next task to claim.
    next: Padded<AtomicUsize>,
    /// Written by the caller while nobody is inside, read by those inside.
    job: UnsafeCell<Job>,
    /// The first panic of a job.
    panic: Mutex<Option<String>>,
    /// Whether worker `i + 1` sleeps or is about to.
    parked: Box<[Padded<AtomicBool>]>,
    /// Whether the caller sleeps or is about to.
    waiting: AtomicBool,
    /// Who the caller is, while it waits.
    caller: Mutex<Option<Thread>>,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not `Sync`. The caller writes it only while the state is
// closed with nobody inside, and workers read it only after having entered, an acquire operation on
// the state that the caller released after writing.
unsafe impl Sync for Shared {}
// SAFETY: the job's pointers are used only between `run`'s opening and its return, during which the
// closure that they point to is borrowed.
unsafe impl Send for Shared {}

#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize, usize),
    tasks: usize,
}

/// Calls the closure of type `F` behind `closure`.
///
/// # Safety
/// `closure` points to a live `F`.
unsafe fn call<F: Fn(usize, usize) + Sync>(closure: *const (), task: usize, worker: usize) {
    // SAFETY: the caller's promise.
    let closure = unsafe { &*closure.cast::<F>() };
    closure(task, worker);
}

unsafe fn no_job(_: *const (), _: usize, _: usize) {}

impl ThreadTeam {
    /// A team of `threads` (at least 1), the thread that calls [`run`](Self::run) being one.
    ///
    /// # Errors
    /// Whatever keeps the operating system from starting a thread; more than 4096 are refused with
    /// [`std::io::ErrorKind::InvalidInput`].
    pub fn new(threads: usize) -> std::io::Result<Self> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("{threads} threads, expected 1 to {MAX_THREADS}"),
            ));
        }
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job {
                closure: std::ptr::null(),
                call: no_job,
                tasks: 0,
            }),
            panic: Mutex::new(None),
            parked: (1..threads)
                .map(|_| Padded(AtomicBool::new(false)))
                .collect(),
            waiting: AtomicBool::new(false),
            caller: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        // Made before the workers, so that an error half-way joins those there are.
        let mut team = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
        };
        for worker in 1..threads {
            let shared = team.shared.clone();
            let handle = thread::Builder::new()
                .name(format!("llmserve-{worker}"))
                .spawn(move || shared.work(worker))?;
            team.workers.push(handle);
        }
        Ok(team)
    }

    /// How many threads there are, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(task, worker)` once for every task in `0..tasks` and returns when all are done.
    ///
    /// Tasks are begun in ascending order by whoever is free. `worker` is below
    /// [`threads`](Self::threads) and belongs to one thread at a time, so it may index scratch
    /// memory. What the tasks wrote is visible to the caller afterwards.
    ///
    /// # Errors
    /// [`TaskPanicked`] when a task panicked; tasks that were not begun then are skipped.
    pub fn run<F>(&mut self, tasks: usize, f: F) -> Result<(), TaskPanicked>
    where
        F: Fn(usize, usize) + Sync,
    {
        if tasks <= 1 || self.workers.is_empty() {
            let alone = catch_unwind(AssertUnwindSafe(|| (0..tasks).for_each(|task| f(task, 0))));
            return alone.map_err(|payload| TaskPanicked {
                message: message_of(payload),
            });
        }
        let shared = &*self.shared;
        let job = Job {
            closure: (&raw const f).cast(),
            call: call::<F>,
            tasks,
        };
        // SAFETY: closed with nobody inside since the last `run` returned, and `&mut self` keeps
        // other callers out, so nobody reads the cell now.
        unsafe { *shared.job.get() = job };
        shared.next.0.store(0, Ordering::Relaxed);
        let closed = shared.state.0.load(Ordering::Relaxed);
        shared
            .state
            .0
            .store(closed.wrapping_add(EPOCH) | OPEN, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers).take(tasks - 1) {
            if parked.0.load(Ordering::SeqCst) && parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.claim(job, 0);
        shared.state.0.fetch_and(!OPEN, Ordering::SeqCst);
        // From here on nobody enters; `f` must live until the last one has left.
        shared.wait_until_left();
        match shared.panic.lock().take() {
            Some(message) => Err(TaskPanicked { message }),
            None => Ok(()),
        }
    }
}

/// The message of a panic, whose payload is dropped without a further panic getting out.
fn message_of(payload: Box<dyn Any + Send>) -> String {
    let message = panic_message(&*payload);
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // There is no end to payloads that panic when they are dropped: this one leaks.
        std::mem::forget(second);
    }
    message
}

impl Shared {
    /// Runs tasks until none is left. Never unwinds: a worker that did would not leave the job.
    fn claim(&self, job: Job, worker: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.0.fetch_add(1, Ordering::Relaxed);
                if task >= job.tasks {
                    return;
                }
                // SAFETY: `run` keeps the closure alive until everybody has left the job.
                unsafe { (job.call)(job.closure, task, worker) };
            }
        }));
        if let Err(payload) = result {
            self.next.0.store(job.tasks, Ordering::Relaxed);
            let message = message_of(payload);
            self.panic.lock().get_or_insert(message);
        }
    }

    fn wait_until_left(&self) {
        let mut patience = Patience::default();
        loop {
            if self.state.0.load(Ordering::SeqCst) & ENTERED == 0 {
                return;
            }
            if !patience.lasts() {
                break;
            }
        }
        *self.caller.lock() = Some(thread::current());
        loop {
            self.waiting.store(true, Ordering::SeqCst);
            if self.state.0.load(Ordering::SeqCst) & ENTERED == 0 {
                break;
            }
            thread::park();
        }
        self.waiting.store(false, Ordering::SeqCst);
        *self.caller.lock() = None;
    }

    /// The life of a worker.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        let mut patience = Patience::default();
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let state = self.state.0.load(Ordering::SeqCst);
            if state & OPEN != 0 && state / EPOCH != seen {
                let entered = self.state.0.compare_exchange(
                    state,
                    state + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if entered.is_ok() {
                    seen = state / EPOCH;
                    // SAFETY: inside the job, so the cell is not written until this worker leaves.
                    let job = unsafe { *self.job.get() };
                    self.claim(job, worker);
                    self.leave();
                    patience = Patience::default();
                }
                continue;
            }
            if !patience.lasts() {
                self.sleep(worker, seen);
                patience = Patience::default();
            }
        }
    }

    fn leave(&self) {
        let before = self.state.0.fetch_sub(1, Ordering::SeqCst);
        if before & ENTERED == 1
            && self.waiting.load(Ordering::SeqCst)
            && self.waiting.swap(false, Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock()
        {
            caller.unpark();
        }
    }

    fn sleep(&self, worker: usize, seen: u64) {
        let Some(parked) = self.parked.get(worker - 1) else {
            return;
        };
        parked.0.store(true, Ordering::SeqCst);
        // Looked at again after the flag: either this sees the job, or its caller sees the flag.
        let state = self.state.0.load(Ordering::SeqCst);
        let work = state & OPEN != 0 && state / EPOCH != seen;
        if !work && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        parked.0.store(false, Ordering::SeqCst);
    }
}

impl Drop for ThreadTeam {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            // Workers never unwind; nothing could be done here if one had.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for ThreadTeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadTeam")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}
