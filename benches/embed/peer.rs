//! onnxruntime, in a process of its own.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A running `peer.py`; it ends when its questions do.
pub struct Peer {
    name: String,
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it and waits until it has loaded the model.
    pub fn start(python: &Path, folder: &Path, threads: usize) -> Result<Self, Box<dyn Error>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("embed/peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(folder)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the peer has no pipes".into());
        };
        let mut peer = Self {
            name: String::new(),
            child,
            questions: Some(questions),
            answers: BufReader::new(answers),
        };
        let ready = peer.answer()?;
        peer.name = ready["name"].as_str().unwrap_or("peer").to_owned();
        Ok(peer)
    }

    /// What it is, with its version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds of each of `calls` calls with these texts, all as long, and the first one's vector.
    pub fn embed(
        &mut self,
        ids: &[Vec<u32>],
        calls: usize,
    ) -> Result<(Vec<f64>, Vec<f64>), Box<dyn Error>> {
        let question = json!({"ids": ids, "calls": calls});
        let questions = self.questions.as_mut().ok_or("the peer has ended")?;
        writeln!(questions, "{question}")?;
        questions.flush()?;
        let answer = self.answer()?;
        Ok((
            numbers(&answer["seconds"])?,
            numbers(&answer["vectors"][0])?,
        ))
    }

    fn answer(&mut self) -> Result<Value, Box<dyn Error>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return Err("the peer ended: see what it wrote above".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.questions.take());
        // It was ours to wait for, whatever became of it.
        let _ = self.child.wait();
    }
}

fn numbers(list: &Value) -> Result<Vec<f64>, Box<dyn Error>> {
    let list = list.as_array().ok_or("the peer's answer is no list")?;
    list.iter()
        .map(|x| {
            x.as_f64()
                .ok_or_else(|| format!("the peer answered {x}").into())
        })
        .collect()
}
