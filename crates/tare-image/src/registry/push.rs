//! Bringing an image to a registry (distribution-spec, "Push").
//!
//! ```text
//! each blob:  HEAD blobs/<digest> ─▶ there?  POST blobs/uploads/?mount=…&from=… ─▶ 201: taken from a neighbour
//!                                                       └─▶ 202, an address ─▶ PUT the bytes there
//! then:       PUT manifests/<tag>
//! ```

use std::fs::File;
use std::io::{self, Read};

use tare_sys::{Context, Error, Kind, Result};
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use ureq::{Body, SendBody};

use super::Repository;
use super::endpoint::{Endpoint, with};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::{Blob, Image, ImageStore};

/// How far a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushState {
    /// The registry had it.
    Held,
    /// The registry has it now, from another repository of its own.
    Mounted,
    /// On its way: so many bytes have gone.
    Going(u64),
    /// The registry has it now.
    Done,
}

impl Repository {
    /// Brings an image there, under a tag. Answers with the manifest's digest.
    ///
    /// Errors: [`Kind::NotFound`] for blobs that the store has not any more; those of the registry.
    pub fn push(
        &self,
        store: &ImageStore,
        image: &Image,
        name: &Reference,
        watch: &dyn Fn(&Blob, PushState),
    ) -> Result<Digest> {
        let endpoint = self.itself()?;
        let tag = name.tag().ok_or_else(|| {
            Error::new(Kind::Usage, format!("push {name}: a digest is not a name")).hint("give it a tag")
        })?;
        let (manifest, blobs): (Vec<&Blob>, Vec<&Blob>) =
            image.blobs.iter().partition(|blob| blob.digest == image.manifest);
        let to = Destination { endpoint, path: &self.path, neighbours: &self.neighbours };
        for blob in blobs {
            let state = to.bring(store, blob, watch)?;
            watch(blob, state);
        }
        let what = || format!("push {name}");
        let manifest = manifest.first().ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("image {} has no manifest", image.id)).hint("pull it again")
        })?;
        let bytes = std::fs::read(store.blob_path(&manifest.digest)).doing(what)?;
        let path = format!("/v2/{}/manifests/{tag}", self.path);
        let mut answer = endpoint.send("PUT", &path, &|agent, url, shown| {
            with(agent.put(url), shown).header(CONTENT_TYPE, &image.manifest_type).send(bytes.as_slice())
        })?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => Ok(manifest.digest.clone()),
            _ => Err(endpoint.refused(&mut answer, what())),
        }
    }
}

struct Destination<'a> {
    endpoint: &'a Endpoint,
    path: &'a str,
    neighbours: &'a [String],
}

impl Destination<'_> {
    fn bring(&self, store: &ImageStore, blob: &Blob, watch: &dyn Fn(&Blob, PushState)) -> Result<PushState> {
        let (path, digest) = (self.path, &blob.digest);
        let there =
            self.endpoint.send("HEAD", &format!("/v2/{path}/blobs/{digest}"), &|agent, url, shown| {
                with(agent.head(url), shown).call()
            })?;
        if there.status() == StatusCode::OK {
            return Ok(PushState::Held);
        }
        let what = || format!("push blob {digest} to {}/{path}", self.endpoint.domain);
        let mut upload = None;
        for from in self.neighbours {
            let answer = self.begin(&format!("?mount={digest}&from={from}"))?;
            match answer.status() {
                StatusCode::CREATED => return Ok(PushState::Mounted),
                // It could not, and has begun an upload instead.
                StatusCode::ACCEPTED => {
                    upload = Some(answer);
                    break;
                }
                // One that we may not read: there may be others.
                _ => continue,
            }
        }
        let mut upload = upload.map_or_else(|| self.begin(""), Ok)?;
        if upload.status() != StatusCode::ACCEPTED {
            return Err(self.endpoint.refused(&mut upload, what()));
        }
        let location =
            upload.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{}: the registry does not say where to", what()))
            })?;
        // Credentials go to the registry alone.
        let location = self.endpoint.own(location)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let address = format!("{location}{separator}digest={digest}");
        let file = store.blob_path(digest);
        let mut answer = self.endpoint.send("PUT", &address, &|agent, url, shown| {
            let mut gone = 0;
            let mut counted = Counted(File::open(&file)?, |bytes| {
                gone += bytes;
                watch(blob, PushState::Going(gone));
            });
            with(agent.put(url), shown)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .send(SendBody::from_reader(&mut counted))
        })?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(PushState::Done),
            _ => Err(self.endpoint.refused(&mut answer, what())),
        }
    }

    fn begin(&self, query: &str) -> Result<ureq::http::Response<Body>> {
        let path = format!("/v2/{}/blobs/uploads/{query}", self.path);
        self.endpoint.send("POST", &path, &|agent, url, shown| with(agent.post(url), shown).send_empty())
    }
}

/// Tells of all that is read.
struct Counted<R, F>(R, F);

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        self.1(read as u64);
        Ok(read)
    }
}
