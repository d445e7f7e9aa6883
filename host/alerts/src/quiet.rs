//! Hours of a day in which nobody is told. Called by `book` for every rule that has them; pure but for the
//! time zone database.

use brolly_core::{Code, Quiet, Refusal, Timestamp};
use jiff::{civil::Time, tz::TimeZone};

/// Quiet hours, understood.
#[derive(Clone, Debug)]
pub(crate) struct Hours {
    from: Time,
    to: Time,
    zone: TimeZone,
}

impl Hours {
    /// # Errors
    /// [`Code::InvalidDefinition`], naming the field.
    pub(crate) fn new(quiet: &Quiet) -> Result<Self, Refusal> {
        let refuse = |detail: String| Refusal::new(Code::InvalidDefinition, detail);
        let time = |field: &str, text: &str| {
            Time::strptime("%H:%M", text).map_err(|_| {
                refuse(format!("quiet.{field} is {text:?}, which is no time of day such as 22:00"))
            })
        };
        let (from, to) = (time("from", &quiet.from)?, time("to", &quiet.to)?);
        if from == to {
            return Err(refuse(
                "quiet.from and quiet.to are the same; leave out quiet, or the channels".to_owned(),
            ));
        }
        let zone = TimeZone::get(&quiet.zone).map_err(|_| {
            refuse(format!("quiet.zone is {:?}, which is no time zone such as Asia/Shanghai", quiet.zone))
        })?;
        Ok(Self { from, to, zone })
    }

    /// Whether nobody is told at this moment. `from` belongs to the quiet hours, `to` does not.
    pub(crate) fn contain(&self, now: Timestamp) -> bool {
        let Ok(now) = jiff::Timestamp::from_millisecond(i64::try_from(now.0).unwrap_or(i64::MAX)) else {
            return false;
        };
        let time = now.to_zoned(self.zone.clone()).time();
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(from: &str, to: &str, zone: &str) -> Quiet {
        Quiet { from: from.into(), to: to.into(), zone: zone.into() }
    }

    #[test]
    fn hours_may_pass_midnight_and_are_those_of_their_zone() {
        let hour = |hour: f64| Timestamp((1_700_006_400_000_f64 + hour * 3_600_000.0) as u64); // midnight UTC
        let cases = [
            (("22:00", "07:00", "UTC"), 21.99, false),
            (("22:00", "07:00", "UTC"), 22.0, true),
            (("22:00", "07:00", "UTC"), 3.0, true),
            (("22:00", "07:00", "UTC"), 7.0, false),
            (("12:30", "13:00", "UTC"), 12.75, true),
            (("12:30", "13:00", "UTC"), 13.0, false),
            (("22:00", "07:00", "Asia/Shanghai"), 14.0, true),
            (("22:00", "07:00", "Asia/Shanghai"), 23.5, false),
        ];
        for ((from, to, zone), at, expect) in cases {
            let hours = Hours::new(&quiet(from, to, zone)).unwrap();
            assert_eq!(hours.contain(hour(at)), expect, "{from} to {to} {zone} at {at}");
        }
    }

    #[test]
    fn a_mistake_names_its_field() {
        let cases = [
            (("25:00", "07:00", "UTC"), "quiet.from"),
            (("22:00", "7 am", "UTC"), "quiet.to"),
            (("22:00", "22:00", "UTC"), "the same"),
            (("22:00", "07:00", "Mars/North"), "quiet.zone"),
        ];
        for ((from, to, zone), names) in cases {
            assert!(Hours::new(&quiet(from, to, zone)).unwrap_err().detail.contains(names));
        }
    }
}
