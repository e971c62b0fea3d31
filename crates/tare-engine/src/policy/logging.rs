//! `--log-driver` and `--log-opt`: what is kept of a container's output, and how much.

use std::collections::BTreeMap;

use tare_sys::{Error, Kind, Result};

use crate::request::{CreateRequest, LogConfig};

/// Bytes of a log file, where the caller does not say: with [`MOST_FILES`], 30 MB a container.
const MOST_BYTES: u64 = 10_000_000;
/// Files of a log, where the caller does not say.
const MOST_FILES: u32 = 3;

/// Where output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// To our own files.
    #[default]
    Files,
    /// To our own files and to the system's journal.
    Journal,
    /// Nowhere.
    Nothing,
}

/// What was decided about a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Where output goes.
    pub keep: Keep,
    /// Bytes at which a new file is begun; `u64::MAX`: never.
    pub most_bytes: u64,
    /// Files, the current one included.
    pub most_files: u32,
    /// Kept with each line, and shown by `logs --details`.
    pub attributes: BTreeMap<String, String>,
    /// Under which name the journal has it.
    pub tag: String,
}

impl Default for Logging {
    fn default() -> Logging {
        Logging {
            keep: Keep::Files,
            most_bytes: MOST_BYTES,
            most_files: MOST_FILES,
            attributes: BTreeMap::new(),
            tag: String::new(),
        }
    }
}

/// Decides.
///
/// Errors: [`Kind::Unsupported`] for a driver that there is not, [`Kind::Usage`] for options that make no sense.
pub fn logging(request: &CreateRequest, id: &str, name: &str) -> Result<Logging> {
    let LogConfig { kind, config } = &request.host_config.log_config;
    let keep = match kind.as_str() {
        "" | "json-file" | "k8s-file" | "local" => Keep::Files,
        "journald" => Keep::Journal,
        "none" => Keep::Nothing,
        other => {
            return Err(Error::new(Kind::Unsupported, format!("log driver {other:?}: there is no such driver here"))
                .hint("use json-file, local, journald or none; what collects logs can read json-file's, at inspect's LogPath"));
        }
    };
    let mut logging = Logging { keep, ..Logging::default() };
    if kind == "local" {
        // Docker's figures for it.
        (logging.most_bytes, logging.most_files) = (20_000_000, 5);
    }
    let short: String = id.chars().take(12).collect();
    logging.tag.clone_from(&short);
    for (key, value) in config {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("--log-opt {key}={value}: {why}"))
                .hint("for example: --log-opt max-size=10m --log-opt max-file=3")
        };
        let listed = || value.split(',').filter(|name| !name.is_empty());
        match key.as_str() {
            "max-size" if value == "-1" => logging.most_bytes = u64::MAX,
            "max-size" => logging.most_bytes = size(value).ok_or_else(|| wrong("it is not a size"))?,
            "max-file" => {
                let files = value.parse().ok().filter(|files| (1..=100).contains(files));
                logging.most_files = files.ok_or_else(|| wrong("it must be a number from 1 to 100"))?;
            }
            "labels" => {
                for label in listed() {
                    if let Some(value) = request.config.labels.get(label) {
                        logging.attributes.insert(label.to_owned(), value.clone());
                    }
                }
            }
            "env" => {
                for name in listed() {
                    let variables = request.config.env.iter().filter_map(|pair| pair.split_once('='));
                    if let Some((_, value)) = variables.rev().find(|(known, _)| *known == name) {
                        logging.attributes.insert(name.to_owned(), value.to_owned());
                    }
                }
            }
            "tag" => {
                logging.tag = value
                    .replace("{{.ID}}", &short)
                    .replace("{{.FullID}}", id)
                    .replace("{{.Name}}", name)
                    .replace("{{.ImageName}}", request.image());
                logging.attributes.insert("tag".to_owned(), logging.tag.clone());
            }
            // A reader never holds up a container here, so there is nothing to choose.
            "mode" if ["blocking", "non-blocking"].contains(&value.as_str()) => {}
            "max-buffer-size" if size(value).is_some() => {}
            "compress" if value == "false" => {}
            "compress" => {
                return Err(wrong("files that were put aside stay as they are, so that all tools read them"));
            }
            "mode" => return Err(wrong("it can be blocking or non-blocking")),
            "max-buffer-size" => return Err(wrong("it is not a size")),
            _ => return Err(wrong("there is no such option")),
        }
    }
    Ok(logging)
}

/// Docker reads `10m` here as powers of 1000, or of 1024 with an `i`.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(kind: &str, options: &[(&str, &str)]) -> Result<Logging> {
        let mut request = CreateRequest::default();
        request.config.labels.insert("team".to_owned(), "blue".to_owned());
        request.config.env.push("STAGE=test".to_owned());
        request.host_config.log_config = LogConfig {
            kind: kind.to_owned(),
            config: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        logging(&request, "0123456789abcdef", "web")
    }

    #[test]
    fn logs_are_bounded_unless_somebody_says_otherwise() {
        let log = decided("", &[]).unwrap();
        assert_eq!((log.keep, log.most_bytes, log.most_files), (Keep::Files, 10_000_000, 3));
        let log = decided("json-file", &[("max-size", "1k"), ("max-file", "2")]).unwrap();
        assert_eq!((log.most_bytes, log.most_files), (1_000, 2));
        assert_eq!(decided("json-file", &[("max-size", "-1")]).unwrap().most_bytes, u64::MAX);
        assert_eq!(decided("local", &[]).unwrap().most_files, 5);
        assert_eq!(decided("none", &[]).unwrap().keep, Keep::Nothing);
    }

    #[test]
    fn attributes_and_tags() {
        let log =
            decided("journald", &[("labels", "team,none"), ("env", "STAGE"), ("tag", "{{.Name}}/{{.ID}}")])
                .unwrap();
        assert_eq!(log.tag, "web/0123456789ab");
        let attributes: Vec<_> = log.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(attributes, ["STAGE=test", "tag=web/0123456789ab", "team=blue"]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decided("syslog", &[]).unwrap_err().kind(), Kind::Unsupported);
        for (key, value) in [
            ("max-size", ""),
            ("max-size", "0"),
            ("max-size", "lots"),
            ("max-size", "99999999999999999999g"),
            ("max-file", "0"),
            ("max-file", "101"),
            ("nope", "1"),
            ("mode", "fast"),
            ("compress", "true"),
        ] {
            assert_eq!(decided("", &[(key, value)]).unwrap_err().kind(), Kind::Usage, "{key}={value}");
        }
    }
}
