//! What a nestrs client expects of the interop service, whoever runs it.
//!
//! A case is a name, what is done, and what must come of it: a value, or
//! `{"error": {"message", "details"?}}` for a call that failed.

use std::time::Duration;

use nestrs_microservices::ClientProxy;
use serde_json::{json, Value};
use tokio::task::JoinSet;

use crate::transports::Place;

const PATIENCE: Duration = Duration::from_secs(10);

enum Act {
    Send(&'static str, Value),
    /// Emit an event, then ask until it was seen.
    Event(Value),
    /// Crash the service's actor, then ask until the event of before was seen.
    Crash(Value),
    /// Ask that many at once: the numbers whose answers were not theirs.
    Many(usize),
    InTurn(usize),
}

type Case = (&'static str, Act, Value);

fn cases(place: &Place) -> Vec<Case> {
    let in_turn = if place.is_slow() { 10 } else { 100 };
    let user = json!({"id": uuid::Uuid::new_v4().to_string(), "name": "Ada"});
    let mut found = vec![
        sent("sum", "math.sum", json!([1, 2, 3]), json!(6)),
        sent("sum.broken", "math.sum", json!([0.5, 1]), json!(1.5)),
        sent(
            "sum.object-pattern",
            r#"{"cmd":"sum"}"#,
            json!([4, 5, 6]),
            json!(15),
        ),
    ];
    found.extend(
        echoes()
            .into_iter()
            .filter(|(_, data)| place.carries(data.to_string().len()))
            .map(|(name, data)| sent(name, "echo", data.clone(), data)),
    );
    found.extend([
        failed(
            "fail.rpc",
            json!({"message": "nope", "details": {"status": 404}}),
        ),
        failed("fail.text", json!({"message": "refused"})),
        failed("fail.plain", json!({"message": "Internal server error"})),
        failed(
            "nobody.home",
            json!({"message": "no microservice handler for pattern `nobody.home`"}),
        ),
        sent("void", "void", json!({}), Value::Null),
        sent("give.null", "give.null", json!({}), Value::Null),
        sent("wait", "wait", json!(20.5), json!(20.5)),
        ("event", Act::Event(user.clone()), json!("seen")),
        ("event.kept-after-failure", Act::Crash(user), json!("seen")),
        ("concurrent", Act::Many(64), json!([])),
        ("sequential", Act::InTurn(in_turn), json!(in_turn)),
    ]);
    found
}

fn echoes() -> Vec<(&'static str, Value)> {
    let words = json!({
        "text": "héllo ✓ 😀 #12#{\"", "escapes": "\u{0}\n\t\\/ \u{7f}\u{2028}", "number": 1.5,
        "yes": true, "nothing": null, "list": [1, [2, {"key": "värde"}]],
        "object": {"": "", "😀": "日本"},
    });
    vec![
        ("echo.object", words),
        ("echo.zero", json!(0)),
        ("echo.false", json!(false)),
        ("echo.null", Value::Null),
        ("echo.empty-text", json!("")),
        ("echo.empty-list", json!([])),
        ("echo.null-inside", json!([null])),
        (
            "echo.numbers",
            json!([i64::MIN, u64::MAX, -0.25, 1e300, 0.1]),
        ),
        ("echo.100kB", json!("0123456789".repeat(10_000))),
        ("echo.100k-emoji", json!("😀".repeat(100_000))),
    ]
}

fn sent(name: &'static str, pattern: &'static str, data: Value, expected: Value) -> Case {
    (name, Act::Send(pattern, data), expected)
}

fn failed(pattern: &'static str, error: Value) -> Case {
    sent(pattern, pattern, json!({}), json!({"error": error}))
}

/// Runs every case, or the one named, and prints what came of each; 1 if any failed.
pub async fn call(place: &Place, only: Option<&str>) -> i32 {
    let client = match place.client(PATIENCE) {
        Ok(client) => client,
        Err(why) => {
            eprintln!("{why}");
            return 2;
        }
    };
    let mut code = 0;
    for (name, act, expected) in cases(place) {
        if only.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let got = match tokio::time::timeout(PATIENCE, run(&client, act)).await {
            Ok(got) => got,
            Err(_) => json!({"failed": "nothing came within 10 s"}),
        };
        let ok = got == expected;
        println!("{}", json!({"case": name, "ok": ok, "got": shortened(got)}));
        code |= i32::from(!ok);
    }
    code
}

async fn run(client: &ClientProxy, act: Act) -> Value {
    match act {
        Act::Send(pattern, data) => send(client, pattern, data).await,
        Act::Event(user) => {
            if let Err(error) = client.emit("user.created", &user).await {
                return json!({"failed": error.message});
            }
            until_seen(client, &user).await
        }
        Act::Crash(user) => {
            // Alone, this case has no event of before.
            let _ = client.emit("user.created", &user).await;
            until_seen(client, &user).await;
            send(client, "fail.plain", json!({})).await;
            until_seen(client, &user).await
        }
        Act::Many(count) => many(client, count).await,
        Act::InTurn(count) => in_turn(client, count).await,
    }
}

async fn send(client: &ClientProxy, pattern: &str, data: Value) -> Value {
    match client.send::<_, Value>(pattern, &data).await {
        Ok(value) => value,
        Err(error) => json!({"error": error}),
    }
}

async fn until_seen(client: &ClientProxy, user: &Value) -> Value {
    for _ in 0..100 {
        let seen = send(client, "seen", json!({})).await;
        if seen.as_array().is_some_and(|events| events.contains(user)) {
            return json!("seen");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    json!("not seen within 2 s")
}

async fn many(client: &ClientProxy, count: usize) -> Value {
    let mut asked = JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        asked.spawn(async move {
            let data = json!({"number": number});
            (send(&client, "echo", data.clone()).await != data).then_some(number)
        });
    }
    json!(asked
        .join_all()
        .await
        .into_iter()
        .flatten()
        .collect::<Vec<_>>())
}

async fn in_turn(client: &ClientProxy, count: usize) -> Value {
    let mut right = 0;
    for number in 0..count {
        let sum = send(client, "math.sum", json!([number, 1])).await;
        right += usize::from(sum == json!(number + 1));
    }
    json!(right)
}

/// Long texts would make lines that nobody can read.
fn shortened(got: Value) -> Value {
    match got.as_str() {
        Some(text) if text.chars().count() > 200 => {
            json!(text.chars().take(200).chain(['…']).collect::<String>())
        }
        _ => got,
    }
}
