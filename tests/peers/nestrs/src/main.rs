//! A real nestrs service and client, for the interop tests.
//!
//!     nestrs-peer serve TRANSPORT URL [--queue NAME] [--prefix PREFIX]
//!     nestrs-peer call TRANSPORT URL [--queue NAME] [--prefix PREFIX] [--only CASE]
//!
//! TRANSPORT is tcp, nats, redis, rmq, kafka, mqtt or grpc; `--queue` is RabbitMQ's work
//! queue, and `--prefix` what subjects, channels and topics begin with. `serve` prints `ready`
//! once it answers, and ends with 0 on SIGTERM or when its standard input closes, so
//! that it never outlives the program that started it. `call` runs every case against
//! whatever listens there, prints one JSON line for each, and ends with 1 if any failed.

mod cases;
mod handlers;
mod transports;

use std::io::Read;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use nestrs_microservices::{ShutdownFuture, TransportError};
use serde_json::Value;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::oneshot;

use handlers::Interop;
use transports::Place;

const USAGE: &str = "usage: nestrs-peer serve|call tcp|nats|redis|rmq|kafka|mqtt|grpc URL \
                     [--queue NAME] [--prefix PREFIX] [--only CASE]";

#[tokio::main(worker_threads = 2)]
async fn main() {
    let (mode, place, only) = arguments().unwrap_or_else(|why| {
        eprintln!("{why}\n{USAGE}");
        exit(2)
    });
    let code = match mode.as_str() {
        "call" => cases::call(&place, only.as_deref()).await,
        _ => serve(&place).await,
    };
    exit(code);
}

fn arguments() -> Result<(String, Place, Option<String>), String> {
    let mut given = std::env::args().skip(1);
    let mut next = |what: &str| given.next().ok_or(format!("{what} is missing"));
    let mode = next("serve or call")?;
    if !["serve", "call"].contains(&mode.as_str()) {
        return Err(format!("{mode} is neither serve nor call"));
    }
    let mut place = Place::new(next("TRANSPORT")?, next("URL")?)?;
    let mut only = None;
    while let Some(option) = given.next() {
        let value = given.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--queue" => place.queue = value,
            "--prefix" => place.prefix = Some(value),
            "--only" => only = Some(value),
            _ => return Err(format!("{option} is no option")),
        }
    }
    Ok((mode, place, only))
}

async fn serve(place: &Place) -> i32 {
    let probe = format!("peer.{}", uuid::Uuid::new_v4().simple());
    let handlers = vec![Arc::new(Interop::new(probe.clone())) as _];
    let server = match place.server(handlers) {
        Ok(server) => server,
        Err(why) => return failed(&why),
    };
    let serving = server.listen_with_shutdown(end_with_parent());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return code_of(ended),
        () = until_answered(place, &probe) => println!("ready"),
    }
    code_of(serving.await)
}

/// nestrs does not say when its server is up: a pattern that only this one knows does.
async fn until_answered(place: &Place, probe: &str) {
    let patience = Duration::from_millis(300);
    loop {
        if let Ok(client) = place.client(patience) {
            if client.send::<_, Value>(probe, &Value::Null).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends on SIGTERM, and when standard input closes: a killed parent closes it too.
fn end_with_parent() -> ShutdownFuture {
    let (closed, is_closed) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be watched");
    Box::pin(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = is_closed => {}
        }
    })
}

fn code_of(ended: Result<(), TransportError>) -> i32 {
    match ended {
        Ok(()) => 0,
        Err(error) => failed(&error.message),
    }
}

fn failed(why: &str) -> i32 {
    eprintln!("{why}");
    1
}
