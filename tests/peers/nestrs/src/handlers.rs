//! The handlers every peer has, as far as nestrs can carry them: its patterns are text,
//! it has no streams, and it knows no unexpected exception (a panic answers nothing),
//! so that `fail.plain` says itself what others say for one.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use nestrs_microservices::{MicroserviceHandler, TransportError};
use serde_json::{json, Value};

type Answer = Result<Value, TransportError>;

pub struct Interop {
    probe: String,
    seen: Mutex<Vec<Value>>,
}

impl Interop {
    /// `probe` is a pattern that only this service answers.
    pub fn new(probe: String) -> Self {
        Self {
            probe,
            seen: Mutex::default(),
        }
    }
}

#[async_trait]
impl MicroserviceHandler for Interop {
    async fn handle_message(&self, pattern: &str, payload: Value) -> Option<Answer> {
        Some(match pattern {
            "math.sum" | r#"{"cmd":"sum"}"# => sum(&payload),
            "echo" => Ok(payload),
            "fail.rpc" => Err(TransportError::new("nope").with_details(json!({"status": 404}))),
            "fail.text" => Err(TransportError::new("refused")),
            "fail.plain" => Err(internal()),
            "void" | "give.null" => Ok(Value::Null),
            "wait" => wait(&payload).await,
            "seen" => Ok(Value::Array(self.seen.lock().unwrap().clone())),
            pattern if pattern == self.probe => Ok(Value::Null),
            _ => return None,
        })
    }

    async fn handle_event(&self, pattern: &str, payload: Value) -> bool {
        let mine = pattern == "user.created";
        if mine {
            self.seen.lock().unwrap().push(payload);
        }
        mine
    }
}

fn internal() -> TransportError {
    TransportError::new("Internal server error")
}

fn sum(numbers: &Value) -> Answer {
    let numbers = numbers.as_array().ok_or_else(internal)?;
    if let Some(whole) = numbers
        .iter()
        .map(Value::as_i64)
        .collect::<Option<Vec<_>>>()
    {
        return Ok(json!(whole.iter().sum::<i64>()));
    }
    let broken: Option<Vec<f64>> = numbers.iter().map(Value::as_f64).collect();
    Ok(json!(broken.ok_or_else(internal)?.iter().sum::<f64>()))
}

async fn wait(milliseconds: &Value) -> Answer {
    let time = milliseconds
        .as_f64()
        .filter(|time| *time >= 0.0)
        .ok_or_else(internal)?;
    tokio::time::sleep(Duration::from_secs_f64(time / 1000.0)).await;
    Ok(milliseconds.clone())
}
