//! Sample messages that a version of a plugin must pass before it may be used.

use std::time::{Duration, Instant};

use brolly_catalog::{Plugin, Precondition, Put, Samples};
use brolly_core::{Code, Digest, HandledBy, Handler, Name, Refusal, Subscription};
use brolly_samples::Samples as Document;

use crate::{Error, Handle, handle::blocking};

/// Bytes of what differs that a refusal tells.
const TOLD: usize = 4 * 1024;

/// Reads samples as a host does: they stand alone, and are for a subscription called like the plugin.
fn read(plugin: &Name, samples: &Samples) -> Result<Document, Refusal> {
    let invalid = |detail| Refusal::new(Code::InvalidDefinition, detail);
    let document = brolly_samples::read("samples", &samples.document, None, plugin)
        .map_err(|mistakes| invalid(mistakes.join("\n")))?;
    let (most, count) = (Handle::SAMPLES, document.samples.len());
    if count > most {
        return Err(invalid(format!("samples: there are {count}, a plugin has at most {most}")));
    }
    let definition =
        brolly_samples::definition(&document.subscription, &Digest::from_bytes([0; 32]), &document.fields)
            .map_err(|refusal| invalid(format!("samples: {}", refusal.detail)))?;
    let (most, time) = (Handle::SAMPLE_MS, definition.limits.time_ms);
    if time > most {
        return Err(invalid(format!("samples: limits.time_ms is {time}, a sample has at most {most}")));
    }
    Ok(document)
}

/// What differs, for people; the first of it whole, as far as there is room.
#[derive(Default)]
struct Differs {
    count: usize,
    told: String,
}

impl Differs {
    fn add(&mut self, name: &str, line: usize, difference: &str) {
        self.count += 1;
        if self.told.len() + difference.len() <= TOLD || self.told.is_empty() {
            let short: String = difference.chars().take(TOLD).collect();
            self.told.push_str(&format!("\n{name} (line {line})\n{short}"));
        }
    }
}

impl Handle {
    /// The most samples of a plugin.
    pub const SAMPLES: usize = 100;
    /// The longest that one sample may take, in milliseconds.
    pub const SAMPLE_MS: u64 = 10_000;
    /// After so long no further sample is begun, and the version has not passed.
    pub const SAMPLES_MS: u64 = 30_000;

    /// Sets what further versions of a plugin must pass, and those that it has before a subscription begins to use
    /// them. The plugin need not have any version yet.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with all mistakes of the document; what the catalog refuses.
    pub async fn put_samples(
        &self,
        plugin: &Name,
        samples: Samples,
        only_if: Precondition,
    ) -> Result<Put<Samples>, Error> {
        read(plugin, &samples)?;
        Ok(self.catalog().put(plugin, samples, only_if, self.author()).await?)
    }

    /// Holds the versions that a subscription is about to use, and does not use now, to the samples of their plugin.
    ///
    /// # Errors
    /// [`Code::SamplesFailed`] with what differs.
    pub(crate) async fn vet_new(&self, name: &Name, value: &Subscription) -> Result<(), Error> {
        let present = self.get::<Subscription>(name).ok();
        let runs = |plugin: &Name, version: Digest| {
            present.as_ref().is_some_and(|entry| {
                let used = [Some((*entry.value).clone()), entry.value.candidate()];
                used.into_iter().flatten().any(|it| it.uses(plugin) && it.version == Some(version))
            })
        };
        for wanted in [Some(value.clone()), value.candidate()].into_iter().flatten() {
            if let HandledBy::Plugin { plugin, version } = wanted.handled_by()?
                && !runs(plugin, version)
                && self.get::<Plugin>(plugin).is_ok_and(|entry| entry.value.version(&version).is_some())
            {
                self.vet(plugin, version).await?;
            }
        }
        Ok(())
    }

    /// Holds a version that was admitted to the samples of its plugin; answers with how many it passed, none where
    /// nothing is asked of it.
    ///
    /// # Errors
    /// [`Code::SamplesFailed`] with what differs; what the plugin runtime refuses.
    pub(crate) async fn vet(&self, plugin: &Name, version: Digest) -> Result<Option<usize>, Error> {
        let Ok(entry) = self.get::<Samples>(plugin) else { return Ok(None) };
        let document = read(plugin, &entry.value)?;
        // A closed semaphore lets everybody through: it never is.
        let _room = self.trials().acquire().await;
        let definition = brolly_samples::definition(&document.subscription, &version, &document.fields)?;
        let (plugins, wasm) = (self.parts().plugins.clone(), self.catalog().plugin_file(&version));
        let name = plugin.clone();
        blocking("running samples", move || {
            let handler = plugins.handler(&document.subscription, &definition, &version, &wasm)?;
            passed(&name, version, &document, &*handler).map(Some).map_err(Error::from)
        })
        .await?
    }
}

/// Runs the samples; how many there are, if the version does what they expect.
fn passed(
    plugin: &Name,
    version: Digest,
    document: &Document,
    handler: &dyn Handler,
) -> Result<usize, Refusal> {
    let (began, all) = (Instant::now(), document.samples.len());
    let (mut differs, mut ran) = (Differs::default(), 0);
    for one in document.run(handler) {
        ran += 1;
        if !one.difference.is_empty() {
            differs.add(&one.sample.name, one.sample.line, &one.difference);
        }
        if began.elapsed() >= Duration::from_millis(Handle::SAMPLES_MS) {
            break;
        }
    }
    let failed = |detail| Err(Refusal::new(Code::SamplesFailed, detail));
    if differs.count > 0 {
        return failed(format!(
            "{} of {all} samples of the plugin {plugin} differ with {version} (- is what is expected, + what \
             happened); mend the version, or the samples at /plugins/{plugin}/samples{}",
            differs.count, differs.told
        ));
    }
    if ran < all {
        return failed(format!(
            "the first {ran} of {all} samples of the plugin {plugin} took more than {} ms with {version}",
            Handle::SAMPLES_MS
        ));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str) -> Result<Document, Refusal> {
        read(&Name::new("p").unwrap(), &Samples { document: text.to_owned() })
    }

    #[test]
    fn samples_have_limits() {
        let of = |count: usize, ms: u64| {
            let one = "[[sample]]\nmessage = { payload = 1 }\nexpect.outcome = 'ack'\n";
            let names = (0..count).map(|n| one.replace("[[sample]]", &format!("[[sample]]\nname = '{n}'")));
            format!("topic = 'in'\nlimits.time_ms = {ms}\n{}", names.collect::<String>())
        };
        assert_eq!(samples(&of(100, 10_000)).unwrap().samples.len(), 100);
        let check = |text: &str, part: &str| {
            let refusal = samples(text).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidDefinition);
            assert!(refusal.detail.contains(part), "{}", refusal.detail);
        };
        check(&of(101, 10_000), "there are 101, a plugin has at most 100");
        check(&of(1, 10_001), "limits.time_ms is 10001, a sample has at most 10000");
        check(&of(1, 9), "limits.time_ms");
        check("topic = 1\n", "samples:1: topic is no text but an integer\nsamples:1: there is no [[sample]]");
    }

    #[test]
    fn what_differs_is_told_within_bounds() {
        let mut differs = Differs::default();
        differs.add("first", 3, &"x".repeat(10 * TOLD));
        differs.add("second", 9, "y");
        assert_eq!((differs.count, differs.told.contains("second")), (2, false));
        assert!(differs.told.starts_with("\nfirst (line 3)\nxxx") && differs.told.len() < TOLD + 50);
    }
}
