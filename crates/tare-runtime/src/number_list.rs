//! Lists of numbers as the kernel and the OCI specification write them, `0-3,7` (cpuset(7), "List format").

use tare_sys::{Error, Kind, Result};

/// Reads a list into bits, bit n of the whole for number n. `what` names it in errors. Numbers from `limit` on
/// are refused, so that a list cannot ask for any amount of memory.
pub fn bits(list: &str, limit: usize, what: &str) -> Result<Vec<u64>> {
    let refuse = |why: String| Err(Error::new(Kind::Usage, format!("{what} {list:?}: {why}")));
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return refuse(format!("{part:?} is neither a number nor a range like 0-3"));
        };
        if first > last {
            return refuse(format!("the range {part} runs backwards"));
        }
        if last >= limit {
            return refuse(format!("{last} is above {}, the highest there can be", limit - 1));
        }
        for number in first..=last {
            set(&mut bits, number);
        }
    }
    Ok(bits)
}

/// Spaces around a number are no harm; a sign, which `parse` would take, is.
fn number(text: &str) -> Option<usize> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn set(bits: &mut Vec<u64>, number: usize) {
    let (word, bit) = (number / 64, number % 64);
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    bits[word] |= 1 << bit;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_numbers_and_ranges() {
        assert_eq!(bits("0", 8, "CPUs").unwrap(), [1]);
        assert_eq!(bits("0-3,7", 8, "CPUs").unwrap(), [0b1000_1111]);
        assert_eq!(bits("63,64", 1024, "CPUs").unwrap(), [1 << 63, 1]);
        assert_eq!(bits(" 1 , 2 - 3 ", 8, "CPUs").unwrap(), [0b1110]);
        let many = bits("1100-1103,8191", 8192, "CPUs").unwrap();
        assert_eq!((many.len(), many.iter().map(|word| word.count_ones()).sum::<u32>()), (128, 5));
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["", ",", "0,", "a", "1-", "-1", "3-1", "+1", "0x1", "1-2-3", "8", "99999999999999999999"]
        {
            let err = bits(text, 8, "CPUs").unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{text:?}");
            assert!(err.to_string().starts_with("CPUs \""), "{err}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_or_grows_above_the_limit(text in "[-0-9, ]{0,24}") {
            if let Ok(bits) = bits(&text, 4096, "CPUs") {
                prop_assert!(bits.len() <= 64);
            }
        }
    }
}
