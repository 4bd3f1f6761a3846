//! A terminal chat: `chat [TARGET] [ASSISTANT_ID]`.
//!
//! Ctrl-C cancels a reply. At the prompt, Ctrl-C or the end of input ends the chat.

mod printable;

use std::io::{self, IsTerminal as _, Write as _, stdin, stdout};

use futures_util::TryStreamExt as _;
use palaver::{
    CancelTurnRequest, Client, CreateAssistantRequest, Event, IfExists, OnDisconnect, Outcome, PostUserQueryRequest,
    Reply, SkillResult,
};
use tokio::sync::mpsc;

use crate::printable::printable;

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap_or_else(|| "127.0.0.1:50051".into());
    let id = arguments.next().unwrap_or_else(|| "chat".into());
    let client = Client::new(target).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(2);
    });
    let assistant = CreateAssistantRequest {
        id: id.clone(),
        if_exists: IfExists::Keep.into(),
        ..Default::default()
    };
    if let Err(error) = client.create_assistant(assistant).await {
        print_error(&error);
    }

    let mut lines = read_lines();
    let is_terminal = stdin().is_terminal();
    loop {
        if is_terminal {
            print!("> ");
            stdout().flush()?;
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line else {
            break;
        };
        if line.trim().is_empty() {
            continue;
        }
        let reply = client.post_user_query(PostUserQueryRequest {
            id: id.clone(),
            user_message: line,
            on_disconnect: OnDisconnect::Continue.into(),
            ..Default::default()
        });
        let request_id = reply.request_id().to_owned();
        tokio::select! {
            outcome = show(reply) => outcome?,
            _ = tokio::signal::ctrl_c() => {
                println!();
                // Dropping the reply is not enough, because of `OnDisconnect::Continue`.
                let id = id.clone();
                let turn = CancelTurnRequest { id, request_id, ..Default::default() };
                if let Err(error) = client.cancel_turn(turn).await {
                    print_error(&error);
                }
            }
        }
    }
    if is_terminal {
        println!();
    }
    // The thread that reads lines must not keep the program alive.
    std::process::exit(0);
}

/// Prints a reply as it streams. Returns only errors of standard output.
async fn show(mut reply: Reply) -> io::Result<()> {
    let (mut is_started, mut has_text) = (false, false);
    loop {
        match reply.try_next().await {
            Ok(Some(Event::Started(_))) => {
                if is_started {
                    println!();
                    eprintln!("[the connection broke, and the reply restarts]");
                }
                is_started = true;
            }
            Ok(Some(Event::TextDelta(delta))) => {
                has_text = true;
                print!("{}", printable(&delta.text));
                stdout().flush()?;
            }
            Ok(Some(Event::SkillCall(call))) => {
                eprintln!("{}", printable(&format!("[{} {}]", call.name, call.arguments_json)));
            }
            Ok(Some(Event::SkillResult(result))) => eprintln!("[{}]", printable(&shown(&result))),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                if has_text {
                    println!();
                }
                print_error(&error);
                return Ok(());
            }
        }
    }
    println!();
    Ok(())
}

fn shown(result: &SkillResult) -> String {
    match &result.outcome {
        Some(Outcome::Content(content)) => format!("-> {content}"),
        Some(Outcome::Error(error)) => format!("-> failed: {error}"),
        _ => "->".into(),
    }
}

fn print_error(error: &palaver::Error) {
    eprintln!("error: {}", printable(&error.to_string().replace(['\r', '\n'], " ")));
}

/// Reads standard input in its own thread, so that Ctrl-C is handled meanwhile.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
