//! The commission: a percentage in hundredths of a percent, and its rounding. Integers throughout.

use std::str::FromStr;

/// Hundredths of a percent in the whole.
const WHOLE: u32 = 10_000;

/// A share of every amount, in hundredths of a percent: 0 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commission(u32);

impl Commission {
    /// The commission on an amount above zero, rounded to the cent; half a cent goes to the even
    /// neighbour.
    pub(crate) fn of(self, amount_cents: i64) -> i64 {
        let whole = i128::from(WHOLE);
        let product = i128::from(amount_cents) * i128::from(self.0);
        let (down, rest) = (product.div_euclid(whole), product.rem_euclid(whole));
        let up = rest * 2 > whole || (rest * 2 == whole && down % 2 != 0);
        // INVARIANT: the share is at most the whole, so the result fits where the amount did.
        i64::try_from(down + i128::from(up)).unwrap_or(amount_cents)
    }
}

impl Default for Commission {
    fn default() -> Self {
        Self(1_500)
    }
}

impl FromStr for Commission {
    type Err = &'static str;

    /// Reads a percentage such as `15`, `7.5` or `12.25`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a percentage is written with digits and up to two decimals, such as 15 or 12.25";
        let (units, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str, most: usize| {
            let legal = (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            legal.then(|| part.parse::<u32>().ok()).flatten().ok_or(WRONG)
        };
        let (units, hundredths) = (digits(units, 3)?, digits(decimals, 2)?);
        let hundredths = if decimals.len() == 1 { hundredths * 10 } else { hundredths };
        let share = units * 100 + hundredths;
        if share > WHOLE { Err("a percentage is at most 100") } else { Ok(Self(share)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(percent: &str, expect: Result<u32, ()>) {
        assert_eq!(percent.parse::<Commission>().map(|share| share.0).map_err(drop), expect, "{percent:?}");
    }

    #[test]
    fn percentages() {
        check("15", Ok(1_500));
        check("0", Ok(0));
        check("100", Ok(10_000));
        check("100.00", Ok(10_000));
        check("7.5", Ok(750));
        check("7.05", Ok(705));
        check("12.25", Ok(1_225));
        for wrong in [
            "", "x", "-1", "+1", "100.01", "101", "1000", "1.", ".5", "1.234", "1,5", " 15", "15%", "1.-5",
            "1.+5",
        ] {
            check(wrong, Err(()));
        }
    }

    #[test]
    fn half_a_cent_goes_to_the_even_neighbour() {
        let at = |percent: &str, cents| percent.parse::<Commission>().unwrap().of(cents);
        // 15 % of 10 is 1.5, of 30 is 4.5, of 50 is 7.5, of 70 is 10.5.
        assert_eq!([10, 30, 50, 70].map(|cents| at("15", cents)), [2, 4, 8, 10]);
        // 15 % of 2,933 is 439.95; of 1,496 is 224.40.
        assert_eq!([2_933, 1_496, 1, 3, 4].map(|cents| at("15", cents)), [440, 224, 0, 0, 1]);
        // 0.25 % of 200 is 0.5, of 600 is 1.5.
        assert_eq!([200, 600].map(|cents| at("0.25", cents)), [0, 2]);
        assert_eq!(at("100", i64::MAX), i64::MAX);
        assert_eq!(at("0", i64::MAX), 0);
    }

    proptest! {
        /// The definition itself: no integer is nearer to the exact share, and of two equally near
        /// ones it is the even one.
        #[test]
        fn it_is_the_nearest_cent(amount in 1..=i64::MAX, share in 0..=WHOLE) {
            let (commission, whole) = (i128::from(Commission(share).of(amount)), i128::from(WHOLE));
            let off = (commission * whole - i128::from(amount) * i128::from(share)).abs();
            prop_assert!(off * 2 <= whole);
            prop_assert!(off * 2 < whole || commission % 2 == 0);
        }
    }
}
