//! `--network`: a network's name or a mode, with or without what is wanted there.

use tare_engine::request::EndpointSettings;

use super::{Parsed, ip};

/// `NAME`, `host`, `none`, `container:NAME`, or `name=NAME,alias=…,ip=…,ip6=…,mac-address=…`.
pub fn network(text: &str) -> Parsed<(String, EndpointSettings)> {
    let mut settings = EndpointSettings::default();
    if text.is_empty() {
        return Ok((String::new(), settings));
    }
    if !text.contains('=') {
        return match text.strip_prefix("container:") {
            Some("") => Err("there is no container after container:".to_owned()),
            None if text.contains([',', '/', ' ']) => Err("it is no name of a network".to_owned()),
            _ => Ok((text.to_owned(), settings)),
        };
    }
    let mut name = String::new();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("there is no = in {field:?}"))?;
        match key {
            "name" => name = value.to_owned(),
            "alias" => settings.aliases.get_or_insert_default().push(value.to_owned()),
            "ip" => settings.ipam_config.get_or_insert_default().ipv4_address = ip(value)?,
            "ip6" => settings.ipam_config.get_or_insert_default().ipv6_address = ip(value)?,
            "mac-address" => settings.mac_address = value.to_owned(),
            // Hints for drivers and gateways of Docker's that change nothing here would be lost in silence.
            _ => return Err(format!("there is no field {key:?}: name, alias, ip, ip6, mac-address")),
        }
    }
    if name.is_empty() { Err("there is no name=".to_owned()) } else { Ok((name, settings)) }
}

/// `NAME[:ALIAS]`
pub fn link(text: &str) -> Parsed<String> {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err("it must be NAME or NAME:ALIAS".to_owned());
    }
    Ok(format!("{name}:{alias}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_modes_and_fields_are_read() {
        assert_eq!(network("lan").unwrap().0, "lan");
        assert_eq!(network("container:web").unwrap().0, "container:web");
        let (name, settings) =
            network("name=lan,alias=a,alias=b,ip=10.0.0.5,mac-address=02:42:00:00:00:01").unwrap();
        assert_eq!(name, "lan");
        assert_eq!(settings.aliases.unwrap(), ["a", "b"]);
        assert_eq!(settings.ipam_config.unwrap().ipv4_address, "10.0.0.5");
        for wrong in
            ["container:", "name=", "alias=x", "name=a,ip=x", "name=a,zz=1", "a,b", "a/b", "name=a,b"]
        {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
