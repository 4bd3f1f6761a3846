//! A chat in the terminal: `chat [TARGET] [ASSISTANT_ID]`.
//!
//! Ctrl-C ends a reply, and at the prompt the chat, as does the end of input.

use std::io::{self, IsTerminal as _, Write as _, stdin, stdout};

use futures_util::TryStreamExt as _;
use palaver::{
    CancelTurnRequest, Client, CreateAssistantRequest, Event, IfExists, OnDisconnect, Outcome, PostUserQueryRequest,
    Reply, SkillResult,
};
use tokio::sync::mpsc;

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
        complain(&error);
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
                // Dropping the reply is not enough: the turn was posted to go on without its caller.
                let id = id.clone();
                let turn = CancelTurnRequest { id, request_id, ..Default::default() };
                if let Err(error) = client.cancel_turn(turn).await {
                    complain(&error);
                }
            }
        }
    }
    if is_terminal {
        println!();
    }
    // A thread that waits for another line must not keep the program alive.
    std::process::exit(0);
}

/// Prints a reply as it streams. Only standard output can fail it.
async fn show(mut reply: Reply) -> io::Result<()> {
    let (mut has_begun, mut has_text) = (false, false);
    loop {
        match reply.try_next().await {
            Ok(Some(Event::Started(_))) => {
                if has_begun {
                    println!();
                    eprintln!("[the connection broke, and the reply begins again]");
                }
                has_begun = true;
            }
            Ok(Some(Event::TextDelta(delta))) => {
                has_text = true;
                print!("{}", delta.text);
                stdout().flush()?;
            }
            Ok(Some(Event::SkillCall(call))) => eprintln!("[{} {}]", call.name, call.arguments_json),
            Ok(Some(Event::SkillResult(result))) => eprintln!("[{}]", shown(&result)),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                if has_text {
                    println!();
                }
                complain(&error);
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

fn complain(error: &palaver::Error) {
    eprintln!("error: {}", error.to_string().replace(['\r', '\n'], " "));
}

/// Reads standard input in a thread of its own, so that Ctrl-C is heard meanwhile.
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
