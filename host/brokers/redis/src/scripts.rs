//! The scripts that run on the server, each one atomic step. Every change of more than one key is one
//! of them. Each file says what it takes, what it answers and what a crash around it leaves.

use std::sync::LazyLock;

use redis::{Cmd, FromRedisValue, Pipeline, Script, Value};

use crate::{connect::Link, error::Error};

/// One script, known to the server by its hash.
pub(crate) struct Routine {
    name: &'static str,
    code: &'static str,
    script: Script,
}

macro_rules! routine {
    ($(#[$doc:meta])* $constant:ident, $name:literal) => {
        $(#[$doc])*
        pub(crate) static $constant: LazyLock<Routine> = LazyLock::new(|| {
            let code =
                concat!(include_str!("scripts/shared.lua"), include_str!(concat!("scripts/", $name, ".lua")));
            Routine { name: $name, code, script: Script::new(code) }
        });
    };
}

routine!(REGISTER, "register");
routine!(LIVE, "live");
routine!(PUBLISH, "publish");
routine!(LISTEN, "listen");
routine!(TAKE_LIST, "take_list");
routine!(SETTLE_LIST, "settle_list");
routine!(REAP_LIST, "reap_list");
routine!(LEAVE_LIST, "leave_list");
routine!(COUNT_LIST, "count_list");
routine!(DELETE_LIST, "delete_list");
routine!(TAKE_STREAM, "take_stream");
routine!(SETTLE_STREAM, "settle_stream");
routine!(LEAVE_STREAM, "leave_stream");
routine!(STRAYS, "strays");
routine!(COUNT_STREAM, "count_stream");
routine!(DELETE_STREAM, "delete_stream");
routine!(TRIM, "trim");

impl Routine {
    /// The call of the script with its keys; arguments are added by the caller.
    pub(crate) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(keys.len()).arg(keys);
        command
    }

    /// Runs a call of this script. A server that does not know the script (yet, or any more) has not
    /// done anything; it is told, and asked again.
    pub(crate) async fn run<T: FromRedisValue>(&self, link: &Link, call: &Cmd) -> Result<T, Error> {
        match link.ask(call).await {
            Err(error) if is_unknown(&error) => {
                self.load(link).await?;
                link.ask(call).await
            }
            answer => answer,
        }
    }

    /// Runs many calls of this script at once; each has its own answer.
    pub(crate) async fn run_all(
        &self,
        link: &Link,
        calls: Vec<Cmd>,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        calls.into_iter().for_each(|call| {
            pipeline.add_command(call);
        });
        let mut answers = link.ask_all(&mut pipeline).await?;
        let unknown = |answer: &Result<Value, Error>| answer.as_ref().is_err_and(is_unknown);
        if !answers.iter().any(unknown) {
            return Ok(answers);
        }
        self.load(link).await?;
        let mut again = Pipeline::new();
        pipeline.cmd_iter().zip(&answers).filter(|(_, answer)| unknown(answer)).for_each(|(call, _)| {
            again.add_command(call.clone());
        });
        let anew = link.ask_all(&mut again).await?;
        answers
            .iter_mut()
            .filter(|answer| unknown(answer))
            .zip(anew)
            .for_each(|(answer, anew)| *answer = anew);
        Ok(answers)
    }

    async fn load(&self, link: &Link) -> Result<(), Error> {
        tracing::debug!(script = self.name, "the server does not know the script yet");
        link.ask::<Value>(redis::cmd("SCRIPT").arg("LOAD").arg(self.code)).await.map(drop)
    }
}

fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Server(sentence) if sentence.starts_with("NOSCRIPT"))
}
