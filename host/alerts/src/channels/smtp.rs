//! E-mail, by lettre. The one place that knows it.

use std::time::Duration;

use brolly_core::{Code, Refusal, Smtp};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};

use crate::{Failure, notice::Letter};

/// How long a connection may take. The answers that follow are bounded with all the rest.
const CONNECT: Duration = Duration::from_secs(5);

/// A way to a mail server.
pub(crate) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

fn refuse(detail: String) -> Refusal {
    Refusal::new(Code::InvalidDefinition, detail)
}

/// # Errors
/// Why it is no e-mail address.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    text.parse::<lettre::Address>().map(drop).map_err(|error| error.to_string())
}

impl Mailer {
    pub(super) fn new(smtp: &Smtp) -> Result<Self, Refusal> {
        let url = smtp.url.url()?;
        if !url.has_host() || !matches!(url.scheme(), "smtp" | "smtps") {
            return Err(refuse("url must begin with smtp:// or smtps:// and a host".to_owned()));
        }
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str())
            .map_err(|error| refuse(format!("url: {error}")))?;
        let from = smtp.from.parse().map_err(|error| refuse(format!("from is {:?}: {error}", smtp.from)))?;
        for to in &smtp.to {
            check_address(to).map_err(|why| refuse(format!("to has {to:?}, which is no address: {why}")))?;
        }
        Ok(Self { transport: transport.timeout(Some(CONNECT)).build(), from })
    }

    pub(super) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        let to: lettre::Address = to.parse().map_err(Failure::new)?;
        let domain = self.from.email.domain();
        let message = Message::builder()
            .message_id(Some(format!("<{}@{domain}>", letter.id)))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&letter.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())
            .map_err(Failure::new)?;
        self.transport.send(message).await.map(drop).map_err(Failure::new)
    }
}
