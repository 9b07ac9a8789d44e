//! Against a hub of our own on the loopback interface.

use super::*;
use crate::weights::testing::{f32_bytes, safetensors};
use crate::{DecoderConfig, FileDType, LoadError, Weights};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";
const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":4,"intermediate_size":4,
    "num_hidden_layers":1,"num_attention_heads":2,"vocab_size":8,"max_position_embeddings":8}"#;

/// What the hub holds and how it behaves.
#[derive(Default)]
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    private: bool,
    /// GET of this file fails after HEAD has succeeded.
    broken: Option<String>,
}

/// Method, path and the authorization that came with it.
type Log = Mutex<Vec<(String, String, Option<String>)>>;

struct Server {
    endpoint: String,
    content: Arc<Mutex<Content>>,
    log: Arc<Log>,
}

impl Server {
    fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect();
        let content = Arc::new(Mutex::new(Content {
            files,
            ..Content::default()
        }));
        let log = Arc::default();
        let (shared, seen) = (Arc::clone(&content), Arc::clone(&log));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, seen) = (Arc::clone(&shared), Arc::clone(&seen));
                std::thread::spawn(move || answer(stream, &shared, &seen));
            }
        });
        Self {
            endpoint,
            content,
            log,
        }
    }

    fn hub(&self, cache: &Path) -> HubBuilder {
        Hub::builder()
            .endpoint(&self.endpoint)
            .cache_dir(cache)
            .retries(0)
    }

    fn paths(&self, method: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter(|(m, ..)| m == method)
            .map(|(_, path, _)| path.rsplit('/').next().unwrap().to_owned())
            .collect()
    }
}

fn answer(mut stream: TcpStream, content: &Mutex<Content>, log: &Log) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut authorization = None;
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = Some(value.to_owned());
        }
    }
    let allowed = authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    log.lock()
        .unwrap()
        .push((method.clone(), path.clone(), authorization));
    let content = content.lock().unwrap();

    let file = path.rsplit('/').next()?;
    let known = path.starts_with("/org/tiny/resolve/") || path.starts_with("/cdn/");
    let body = content.files.get(file).filter(|_| known);
    let commit = format!("X-Repo-Commit: {COMMIT}\r\n");
    let (status, headers, body) = match body {
        _ if content.private && !allowed => (
            "401 Unauthorized",
            String::new(),
            format!("no {TOKEN} here").into_bytes(),
        ),
        None => ("404 Not Found", commit, Vec::new()),
        Some(_) if method == "GET" && content.broken.as_deref() == Some(file) => {
            ("200 OK", commit, b"<html>sorry</html>".to_vec())
        }
        // Large files live elsewhere, as on the real hub.
        Some(body) if file.ends_with(".safetensors") && !path.starts_with("/cdn/") => (
            "302 Found",
            format!(
                "{commit}X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nLocation: /cdn/{file}\r\n",
                etag(body),
                body.len()
            ),
            Vec::new(),
        ),
        Some(body) => (
            "200 OK",
            format!("{commit}ETag: \"{}\"\r\n", etag(body)),
            body.clone(),
        ),
    };
    // The redirect of a large file is absolute on the real hub; relative ones are followed on HEAD.
    let host = stream.local_addr().ok()?;
    let headers = headers.replace("Location: /", &format!("Location: http://{host}/"));
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    if method == "GET" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

fn etag(body: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(body))
}

fn tensors(name: &str) -> Vec<u8> {
    safetensors(&[(name, FileDType::F32, &[2], &f32_bytes(&[1.0, 2.0]))])
}

fn tiny() -> Server {
    Server::start(&[
        ("config.json", CONFIG.as_bytes()),
        ("generation_config.json", br#"{"eos_token_id": 3}"#),
        ("model.safetensors", &tensors("x")),
        ("README.md", b"not fetched"),
    ])
}

#[derive(Default)]
struct Seen(Mutex<Vec<(String, u64, u64)>>);

impl FetchProgress for Seen {
    fn advanced(&self, file: &str, done: u64, total: u64) {
        self.0.lock().unwrap().push((file.to_owned(), done, total));
    }
}

#[test]
fn fetches_what_a_model_needs_and_no_more() {
    let (server, cache) = (tiny(), tempfile::tempdir().unwrap());
    let seen = Arc::new(Seen::default());
    let hub = server
        .hub(cache.path())
        .progress(Arc::<Seen>::clone(&seen))
        .build()
        .unwrap();
    let folder = hub.fetch("org/tiny").unwrap();
    assert!(folder.ends_with(format!("models--org--tiny/snapshots/{COMMIT}")));
    assert_eq!(DecoderConfig::from_dir(&folder).unwrap().eos, [3]);
    assert_eq!(
        Weights::open(&folder)
            .unwrap()
            .tensor("x", &[2])
            .unwrap()
            .to_f32(),
        [1.0, 2.0]
    );
    let fetched = server.paths("GET");
    assert!(!fetched.contains(&"README.md".to_owned()), "{fetched:?}");
    let size = tensors("x").len() as u64;
    assert!(
        seen.0
            .lock()
            .unwrap()
            .contains(&("model.safetensors".to_owned(), size, size))
    );
    // Nobody gave a token, so none was sent, wherever the environment keeps one.
    assert!(
        server
            .log
            .lock()
            .unwrap()
            .iter()
            .all(|(_, _, token)| token.is_none())
    );

    // A second time nothing is fetched.
    let before = server.paths("GET").len();
    assert_eq!(hub.fetch("org/tiny").unwrap(), folder);
    assert_eq!(server.paths("GET").len(), before);

    // And offline nobody is asked.
    let before = server.log.lock().unwrap().len();
    let offline = server.hub(cache.path()).offline(true).build().unwrap();
    assert_eq!(offline.fetch("org/tiny").unwrap(), folder);
    assert_eq!(server.log.lock().unwrap().len(), before);

    // All but the first request name the commit, not the branch.
    let log = server.log.lock().unwrap();
    let by_branch = log
        .iter()
        .filter(|(_, path, _)| path.contains("/resolve/main/"));
    assert!(
        by_branch
            .into_iter()
            .all(|(_, path, _)| path.ends_with("/config.json"))
    );
}

#[test]
fn shards_come_with_their_index() {
    let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let server = Server::start(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors.index.json", index.as_bytes()),
        ("m-1.safetensors", &tensors("a")),
        ("m-2.safetensors", &tensors("b")),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path()).build().unwrap();
    let weights = Weights::open(&hub.fetch("org/tiny").unwrap()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);

    server
        .content
        .lock()
        .unwrap()
        .files
        .remove("m-2.safetensors");
    let empty = tempfile::tempdir().unwrap();
    let error = server
        .hub(empty.path())
        .build()
        .unwrap()
        .fetch("org/tiny")
        .unwrap_err();
    assert!(matches!(&error, HubError::NotFound { file, .. } if file == "m-2.safetensors"));

    let evil = br#"{"weight_map":{"a":"../../m-1.safetensors"}}"#.to_vec();
    server
        .content
        .lock()
        .unwrap()
        .files
        .insert(INDEX.to_owned(), evil);
    let empty = tempfile::tempdir().unwrap();
    let error = server
        .hub(empty.path())
        .build()
        .unwrap()
        .fetch("org/tiny")
        .unwrap_err();
    assert!(
        matches!(error, HubError::Load(LoadError::Corrupt { .. })),
        "{error}"
    );
}

#[test]
fn the_token_opens_and_is_never_shown() {
    let (server, cache) = (tiny(), tempfile::tempdir().unwrap());
    server.content.lock().unwrap().private = true;
    let error = server
        .hub(cache.path())
        .build()
        .unwrap()
        .fetch("org/tiny")
        .unwrap_err();
    assert!(matches!(error, HubError::Unauthorized { .. }), "{error}");
    let wrong = server.hub(cache.path()).token("hf_other");
    assert!(!format!("{wrong:?}").contains("hf_other"));
    let wrong = wrong.build().unwrap();
    assert!(!format!("{wrong:?}").contains("hf_other"));
    let error = wrong.fetch("org/tiny").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hf_other"));
    server
        .hub(cache.path())
        .token(TOKEN)
        .build()
        .unwrap()
        .fetch("org/tiny")
        .unwrap();
    assert_eq!(error::redacted("x hf_secret y", Some(TOKEN)), "x … y");
}

#[test]
fn absent_things_are_named() {
    let (server, cache) = (tiny(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path()).build().unwrap();
    let error = hub.fetch("org/other").unwrap_err();
    assert!(matches!(&error, HubError::NotFound { repository, .. } if repository == "org/other"));
    server
        .content
        .lock()
        .unwrap()
        .files
        .remove("model.safetensors");
    let error = hub.fetch("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
    let offline = server.hub(cache.path()).offline(true);
    let error = offline.build().unwrap().fetch("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let offline = server.hub(empty.path()).offline(true).build().unwrap();
    let error = offline.fetch("org/tiny").unwrap_err();
    assert!(
        matches!(&error, HubError::NotCached { file, .. } if file == "config.json"),
        "{error}"
    );
}

#[test]
fn a_dead_hub_is_an_error_or_the_cache() {
    let (server, cache) = (tiny(), tempfile::tempdir().unwrap());
    let folder = server
        .hub(cache.path())
        .build()
        .unwrap()
        .fetch("org/tiny")
        .unwrap();
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dead = |cache: &Path| {
        Hub::builder()
            .endpoint(format!("http://{free}"))
            .cache_dir(cache)
            .retries(0)
            .build()
            .unwrap()
    };
    assert_eq!(dead(cache.path()).fetch("org/tiny").unwrap(), folder);
    let empty = tempfile::tempdir().unwrap();
    let error = dead(empty.path()).fetch("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn an_error_page_does_not_stay_in_the_cache() {
    let (server, cache) = (tiny(), tempfile::tempdir().unwrap());
    server.content.lock().unwrap().broken = Some("model.safetensors".to_owned());
    let hub = server.hub(cache.path()).build().unwrap();
    let error = hub.fetch("org/tiny").unwrap_err();
    assert!(
        matches!(error, HubError::Incomplete { found: 18, .. }),
        "{error}"
    );
    server.content.lock().unwrap().broken = None;
    Weights::open(&hub.fetch("org/tiny").unwrap()).unwrap();
}

#[test]
fn options_and_names_are_checked() {
    let option = |builder: HubBuilder| match builder.build() {
        Err(HubError::InvalidOption { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    for revision in [
        "",
        "a b",
        "../main",
        "a//b",
        "/main",
        "refs/../x",
        ".hidden",
    ] {
        assert_eq!(option(Hub::builder().revision(revision)), "revision");
    }
    for token in ["", "with space", "line\nbreak"] {
        assert_eq!(option(Hub::builder().token(token)), "token");
    }
    for endpoint in [
        "",
        "huggingface.co",
        "ftp://x",
        "https://",
        "https://me:pw@host",
    ] {
        assert_eq!(option(Hub::builder().endpoint(endpoint)), "endpoint");
    }
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::builder()
        .cache_dir(cache.path())
        .offline(true)
        .build()
        .unwrap();
    for id in [
        "", "/", "a/b/c", "../x", "a/..", "a b", "org/", "/name", "-a/b", "a/b?c", "ü/x",
    ] {
        assert!(
            matches!(hub.fetch(id), Err(HubError::InvalidRepository { .. })),
            "{id}"
        );
    }
}

#[test]
fn shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Hub>();
    shared::<HubError>();
}

#[test]
fn a_token_crosses_no_network_unencrypted() {
    let cache = tempfile::tempdir().unwrap();
    let build = |endpoint: &str, token: Option<&str>| {
        let builder = Hub::builder().endpoint(endpoint).cache_dir(cache.path());
        match token {
            Some(token) => builder.token(token).build(),
            None => builder.build(),
        }
    };
    for endpoint in [
        "http://example.com",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com/",
        "http://example.com/localhost",
        "http://example.com#127.0.0.1",
        "http://example.com?127.0.0.1",
        "http://[2001:db8::1]:80",
        "http://0.0.0.0",
    ] {
        let error = build(endpoint, Some(TOKEN)).unwrap_err();
        assert!(
            matches!(
                &error,
                HubError::InvalidOption {
                    option: "endpoint",
                    ..
                }
            ),
            "{endpoint}: {error}"
        );
        assert!(!error.to_string().contains(TOKEN));
        build(endpoint, None).unwrap();
    }
    for endpoint in [
        "https://example.com",
        "http://localhost:8080/hub",
        "http://LOCALHOST",
        "http://127.0.0.1:1",
        "http://127.8.0.1",
        "http://[::1]:8080",
    ] {
        build(endpoint, Some(TOKEN)).unwrap();
    }
    for endpoint in [
        "http://example.com\\@127.0.0.1",
        "http://127.0.0.1\t.example.com",
    ] {
        assert!(build(endpoint, Some(TOKEN)).is_err());
    }
}

/// Names the hub that the child process of the next test talks to.
const CHILD: &str = "LLMSERVE_TEST_HUB";

/// Run by [`the_environments_token_is_not_sent`] in an environment of its own; alone it does nothing.
#[test]
fn child_with_a_token_in_its_environment() {
    let Ok(endpoint) = std::env::var(CHILD) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::builder().endpoint(endpoint).cache_dir(cache.path());
    hub.retries(0).build().unwrap().fetch("org/tiny").unwrap();
}

#[test]
fn the_environments_token_is_not_sent() {
    let server = tiny();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), TOKEN).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "hub::tests::child_with_a_token_in_its_environment",
        ])
        .env(CHILD, &server.endpoint)
        .env("HF_TOKEN", TOKEN)
        .env("HF_TOKEN_PATH", home.path().join("token"))
        .env("HF_HOME", home.path())
        // Would send it elsewhere, if it were heeded.
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env_remove("HF_HUB_DISABLE_IMPLICIT_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = server.log.lock().unwrap();
    assert!(log.iter().any(|(method, ..)| method == "GET"));
    assert!(log.iter().all(|(_, _, token)| token.is_none()), "{log:?}");
}

#[test]
fn offline_a_model_may_lack_its_tokenizer_but_not_its_weights() {
    let server = tiny();
    let files = || server.content.lock().unwrap();
    let fetch = |cache: &Path, offline: bool| {
        let hub = server.hub(cache).offline(offline).build().unwrap();
        hub.fetch("org/tiny")
    };
    files()
        .files
        .insert("tokenizer.json".to_owned(), b"{}".to_vec());
    let cache = tempfile::tempdir().unwrap();
    let folder = fetch(cache.path(), false).unwrap();
    // As a tool that fetches weights alone leaves it.
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(fetch(cache.path(), true).unwrap(), folder);
    assert!(!folder.join("tokenizer.json").exists());
    // With a connection it is fetched after all.
    fetch(cache.path(), false).unwrap();
    assert!(folder.join("tokenizer.json").exists());
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let error = fetch(cache.path(), true).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
}
