//! Keeping prefixes with what can only generate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use llmserve_core::error::guarded;
use llmserve_core::{
    Error, Generate, KeepPrefix, Keeper, Keeping, KeptPrefix, Message, Prefix, Prompt, Request,
};

/// Later than anybody who waits for an answer.
const LAST: i32 = i32::MAX;

/// How long one prefix may take: those after it wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has prefixes computed by asking for one token after them, and leaves it to the service's own cache
/// how long they stay.
///
/// For services that know nothing of [`KeepPrefix`]: an endpoint elsewhere, a router. One prefix at
/// a time, on a thread of its own, and none for longer than a minute; behind a router it is ready where
/// the router sent it. What it tells as ready are all tokens of the prompt that it asked, of which the
/// last few are not the prefix's.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::prompt::WarmUp;
/// use llmserve_core::{Error, EventStream, Generate, KeepPrefix, Keeping, Prefix, Request};
///
/// struct Closed;
/// impl Generate for Closed {
///     fn generate(&self, _request: Request) -> EventStream {
///         EventStream::failed(Error::ShutDown)
///     }
/// }
/// let kept = WarmUp::new(Closed).keep(Prefix::text("Once upon a time"));
/// assert!(matches!(kept.wait(), Err(Error::ShutDown)));
/// ```
pub struct WarmUp {
    jobs: Sender<Job>,
}

struct Job {
    prefix: Prefix,
    keeper: Keeper,
    dropped: Arc<AtomicBool>,
}

impl WarmUp {
    /// Around any service. The thread ends when this and what it was asked for are gone.
    pub fn new(inner: impl Generate + 'static) -> Self {
        let (jobs, received) = channel();
        // Without a thread nobody receives, and every guard is told so.
        let _ = std::thread::Builder::new()
            .name("llmserve-warm-up".to_owned())
            .spawn(move || run(&inner, &received));
        Self { jobs }
    }
}

impl KeepPrefix for WarmUp {
    fn keep(&self, prefix: Prefix) -> KeptPrefix {
        let dropped = Arc::new(AtomicBool::new(false));
        let told = dropped.clone();
        let (guard, keeper) = KeptPrefix::pair(move || told.store(true, Ordering::Relaxed));
        let job = Job {
            prefix,
            keeper,
            dropped,
        };
        // A job that nobody takes is dropped, and its guard told that it failed.
        let _ = self.jobs.send(job);
        guard
    }
}

impl std::fmt::Debug for WarmUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WarmUp").finish_non_exhaustive()
    }
}

fn run(inner: &dyn Generate, jobs: &Receiver<Job>) {
    for job in jobs {
        if job.dropped.load(Ordering::Relaxed) {
            continue;
        }
        let answered = guarded(|| inner.generate(request(job.prefix)).wait());
        job.keeper.tell(match answered {
            Ok(Ok(response)) => Keeping::Ready {
                tokens: response
                    .choices
                    .first()
                    .map_or(0, |choice| choice.usage.prompt_tokens),
            },
            Ok(Err(error)) => Keeping::Failed(error),
            Err(message) => Keeping::Failed(Error::Panicked {
                part: "service",
                message,
            }),
        });
    }
}

/// One token after the prefix.
fn request(prefix: Prefix) -> Request {
    let mut prompt = prefix.prompt;
    if let Prompt::Messages(messages) = &mut prompt
        && !prefix.open
    {
        // Templates want turns to alternate, and a question at the end.
        if messages.last().is_some_and(|last| last.role == "user") {
            messages.push(Message::assistant("."));
        }
        messages.push(Message::user("."));
    }
    let mut request = Request::new(prompt)
        .max_tokens(1)
        .priority(LAST)
        .deadline(PATIENCE);
    request.tenant = prefix.tenant;
    request.model = prefix.model;
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::{
        Event, EventStream, FinishReason, Finished, Started, Timings, TokenEvent, Usage,
    };
    use parking_lot::Mutex;

    /// Writes down what it is asked, and says so many tokens as messages.
    #[derive(Clone, Default)]
    struct Service(Arc<Mutex<Vec<Request>>>);

    impl Generate for Service {
        fn generate(&self, request: Request) -> EventStream {
            let Prompt::Messages(messages) = &request.prompt else {
                panic!("the service's own fault");
            };
            let usage = Usage {
                prompt_tokens: messages.len(),
                ..Usage::default()
            };
            let token = TokenEvent {
                index: 0,
                id: 1,
                text: String::new(),
                logprobs: None,
            };
            self.0.lock().push(request);
            EventStream::ready([
                Ok(Event::Started(Started::default())),
                Ok(Event::Token(token)),
                Ok(Event::Finished(Finished {
                    index: 0,
                    reason: FinishReason::Length,
                    text: String::new(),
                    usage,
                    timings: Timings::default(),
                })),
            ])
        }
    }

    #[test]
    fn one_token_is_asked_for_after_the_prefix_and_after_everybody() {
        let service = Service::default();
        let warm = WarmUp::new(service.clone());
        let closed = Prefix::messages([Message::system("s")]);
        let kept = warm.keep(closed.clone().tenant("t").model("m"));
        assert_eq!(kept.wait().ok(), Some(2));
        assert_eq!(warm.keep(closed.open()).wait().ok(), Some(1));
        let ends_with_user = Prefix::messages([Message::user("u")]);
        assert_eq!(warm.keep(ends_with_user).wait().ok(), Some(3));
        let asked = service.0.lock();
        let first = &asked[0];
        assert_eq!((first.max_tokens, first.priority), (Some(1), i32::MAX));
        assert_eq!(
            (first.tenant.as_deref(), first.model.as_deref()),
            (Some("t"), Some("m"))
        );
        let last_role = |request: &Request| match &request.prompt {
            Prompt::Messages(messages) => messages.last().map(|last| last.role.clone()),
            _ => None,
        };
        let roles: Vec<_> = asked.iter().filter_map(last_role).collect();
        assert_eq!(roles, ["user", "system", "user"]);
    }

    #[test]
    fn a_service_that_panics_fails_one_prefix() {
        let warm = WarmUp::new(Service::default());
        let failed = warm.keep(Prefix::text("t")).wait();
        assert!(matches!(
            failed,
            Err(Error::Panicked {
                part: "service",
                ..
            })
        ));
        let next = warm.keep(Prefix::messages([Message::user("u")]));
        assert_eq!(next.wait().ok(), Some(3));
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_asked_for() {
        let service = Service::default();
        let warm = WarmUp::new(service.clone());
        // The thread is held up by the first.
        let held = service.0.lock();
        let first = warm.keep(Prefix::messages([Message::user("1")]));
        drop(warm.keep(Prefix::messages([Message::user("2")])));
        let third = warm.keep(Prefix::messages([Message::user("3")]));
        drop(held);
        assert!(first.wait().is_ok() && third.wait().is_ok());
        assert_eq!(service.0.lock().len(), 2);
    }
}
