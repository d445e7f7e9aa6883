//! Headers of `wasi:http`: names in lower case with their values, within limits.

use std::sync::Arc;

use brolly_core::Fault;
use bytes::Bytes;
use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::http::types::{self, HeaderError},
    fault::Stop,
    wasi::http::Fields,
};

/// Headers of one request, and bytes of their names and values.
const MAX_HEADERS: usize = 128;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Headers that belong to the connection, which is the host's.
const FORBIDDEN: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Headers, shared until somebody changes them.
pub(crate) type Entries = Arc<Vec<(String, Bytes)>>;

/// The name in lower case, if it is one.
fn checked_name(name: &str) -> Result<String, HeaderError> {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(HeaderError::InvalidSyntax);
    }
    Ok(name.to_ascii_lowercase())
}

/// The name in lower case, if a guest may set it.
fn settable_name(name: &str) -> Result<String, HeaderError> {
    let name = checked_name(name)?;
    // A length that the guest gives is no news: the host counts the body.
    if FORBIDDEN.contains(&name.as_str()) && name != "content-length" {
        return Err(HeaderError::Forbidden);
    }
    Ok(name)
}

fn checked_value(value: &[u8]) -> Result<Bytes, HeaderError> {
    let is_legal = |c: &u8| *c == b'\t' || (*c >= b' ' && *c != 0x7f);
    if value.iter().all(is_legal) {
        Ok(Bytes::copy_from_slice(value))
    } else {
        Err(HeaderError::InvalidSyntax)
    }
}

/// Whether the host sets a header, whatever the guest says.
pub(crate) fn is_hosts_own(name: &str) -> bool {
    FORBIDDEN.contains(&name)
}

impl Fields {
    pub(crate) fn of(entries: Entries, is_fixed: bool) -> Self {
        Self { entries, is_fixed }
    }

    pub(crate) fn entries(&self) -> Entries {
        Arc::clone(&self.entries)
    }

    fn append(&mut self, name: String, value: Bytes) -> Result<(), Stop> {
        let held: usize = self.entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = held + name.len() + value.len();
        let over = if self.entries.len() >= MAX_HEADERS {
            Some((format!("{} headers of one request", self.entries.len() + 1), MAX_HEADERS))
        } else if bytes > MAX_HEADER_BYTES {
            Some((format!("{bytes} bytes of headers of one request"), MAX_HEADER_BYTES))
        } else {
            None
        };
        if let Some((what, limit)) = over {
            return Err(Stop::Fault(Fault::Limit { what, limit: limit as u64, setting: "a fixed limit" }));
        }
        Arc::make_mut(&mut self.entries).push((name, value));
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        if self.entries.iter().any(|(own, _)| own == name) {
            Arc::make_mut(&mut self.entries).retain(|(own, _)| own != name);
        }
    }
}

type Answer<T> = wasmtime::Result<Result<T, HeaderError>>;

/// The value of a result whose error is for the guest.
macro_rules! tell {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}

impl Guest {
    fn changeable(&mut self, this: &Resource<Fields>) -> Answer<&mut Fields> {
        let fields = self.handles().get_mut(this)?;
        Ok(if fields.is_fixed { Err(HeaderError::Immutable) } else { Ok(fields) })
    }
}

impl types::HostFields for Guest {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.handles().push(Fields::of(Entries::default(), false))
    }

    fn from_list(&mut self, entries: Vec<(String, Vec<u8>)>) -> Answer<Resource<Fields>> {
        let mut fields = Fields::of(Entries::default(), false);
        for (name, value) in entries {
            let name = tell!(settable_name(&name));
            fields.append(name, tell!(checked_value(&value)))?;
        }
        Ok(Ok(self.handles().push(fields)?))
    }

    fn get(&mut self, this: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let fields = self.handles().get(&this)?;
        let named = fields.entries.iter().filter(|(own, _)| own.eq_ignore_ascii_case(&name));
        Ok(named.map(|(_, value)| value.to_vec()).collect())
    }

    fn has(&mut self, this: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        let fields = self.handles().get(&this)?;
        Ok(fields.entries.iter().any(|(own, _)| own.eq_ignore_ascii_case(&name)))
    }

    fn set(&mut self, this: Resource<Fields>, name: String, values: Vec<Vec<u8>>) -> Answer<()> {
        let fields = tell!(self.changeable(&this)?);
        let name = tell!(settable_name(&name));
        let values = values.iter().map(|value| checked_value(value)).collect::<Result<Vec<_>, _>>();
        let values = tell!(values);
        fields.remove(&name);
        for value in values {
            fields.append(name.clone(), value)?;
        }
        Ok(Ok(()))
    }

    fn delete(&mut self, this: Resource<Fields>, name: String) -> Answer<()> {
        let fields = tell!(self.changeable(&this)?);
        fields.remove(&tell!(settable_name(&name)));
        Ok(Ok(()))
    }

    fn append(&mut self, this: Resource<Fields>, name: String, value: Vec<u8>) -> Answer<()> {
        let fields = tell!(self.changeable(&this)?);
        let name = tell!(settable_name(&name));
        fields.append(name, tell!(checked_value(&value)))?;
        Ok(Ok(()))
    }

    fn entries(&mut self, this: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let entries = self.handles().get(&this)?.entries();
        Ok(entries.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect())
    }

    fn clone(&mut self, this: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let entries = self.handles().get(&this)?.entries();
        self.handles().push(Fields::of(entries, false))
    }

    fn drop(&mut self, this: Resource<Fields>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_cannot_carry_a_second_header() {
        let check = |name: &str, expect: &str| {
            let told = format!("{:?}", settable_name(name));
            assert!(told.contains(expect), "{name:?}: {told}");
        };
        check("X-Order", "x-order");
        check("Content-Length", "content-length");
        for name in ["Host", "connection", "Transfer-Encoding", "proxy-authorization", "upgrade"] {
            check(name, "Forbidden");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "a\0", "é"] {
            check(name, "InvalidSyntax");
        }
        assert!(checked_value(b"a b\tc \xff").is_ok());
        for value in [&b"a\r\nb: c"[..], b"a\nb", b"\0", b"\x7f"] {
            assert!(checked_value(value).is_err(), "{value:?}");
        }
    }
    #[test]
    fn headers_are_limited_in_number_and_bytes() {
        let filled = |count: usize, bytes: usize| {
            let mut fields = Fields::of(Entries::default(), false);
            (0..count).try_for_each(|_| fields.append("h".into(), Bytes::from(vec![b'v'; bytes])))
        };
        let over = |result: Result<(), Stop>| match result {
            Err(Stop::Fault(Fault::Limit { limit, .. })) => limit,
            other => panic!("{other:?}"),
        };
        assert!(filled(MAX_HEADERS, 1).is_ok());
        assert_eq!(over(filled(MAX_HEADERS + 1, 1)), 128);
        assert!(filled(1, MAX_HEADER_BYTES - 1).is_ok());
        assert_eq!(over(filled(1, MAX_HEADER_BYTES)), 32_768);
    }
}
