//! Bringing an image to a registry (distribution-spec, "Push").
//!
//! ```text
//! each blob:  HEAD blobs/<digest> ─▶ there?  POST blobs/uploads/?mount=…&from=… ─▶ 201: taken from a neighbour
//!                                                       └─▶ 202, an address ─▶ PUT the bytes there
//!                                    broken off? GET the address ─▶ 204, so many came ─▶ PATCH the rest, PUT
//! then:       PUT manifests/<tag>
//! ```
//!
//! Several blobs go at once. What the registry has whole it keeps, so a push that is called again goes on there.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tare_sys::{Context, Error, Kind, Result};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder, SendBody};

use super::Repository;
use super::endpoint::{Endpoint, with};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::{Blob, Image, ImageStore};

/// Blobs at once.
const PARALLEL: usize = 3;
/// How often an upload is begun or taken up again.
const TRIES: u32 = 5;
/// What a registry may take to check what it got.
const CHECK: Duration = Duration::from_secs(300);

/// Who is told how far each blob is, from several threads.
pub type Watch<'a> = dyn Fn(&Blob, PushState) + Sync + 'a;

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
    /// Brings an image there, under a tag. Answers with the manifest's digest and size.
    ///
    /// Errors: [`Kind::NotFound`] for blobs that the store has not any more; those of the registry.
    pub fn push(
        &self,
        store: &ImageStore,
        image: &Image,
        name: &Reference,
        watch: &Watch<'_>,
    ) -> Result<(Digest, u64)> {
        let endpoint = self.itself()?;
        let tag = name.tag().ok_or_else(|| {
            Error::new(Kind::Usage, format!("push {name}: a digest is not a name")).hint("give it a tag")
        })?;
        let (manifest, blobs): (Vec<&Blob>, Vec<&Blob>) =
            image.blobs.iter().partition(|blob| blob.digest == image.manifest);
        let to = Destination { endpoint, path: &self.path, neighbours: &self.neighbours };
        to.bring_all(store, &blobs, watch)?;
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
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                Ok((manifest.digest.clone(), bytes.len() as u64))
            }
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
    fn bring_all(&self, store: &ImageStore, blobs: &[&Blob], watch: &Watch<'_>) -> Result<()> {
        let (next, over, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let work = || {
            while !over.load(Ordering::Relaxed)
                && let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed))
            {
                match self.bring(store, blob, watch) {
                    Ok(state) => watch(blob, state),
                    Err(err) if !over.swap(true, Ordering::Relaxed) => {
                        *failure.lock().unwrap_or_else(|err| err.into_inner()) = Some(err);
                    }
                    // Only the first counts.
                    Err(_) => {}
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(blobs.len()) {
                // With fewer threads it only takes longer.
                let _ = std::thread::Builder::new().name("tare-push".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(|err| err.into_inner()).map_or(Ok(()), Err)
    }

    fn bring(&self, store: &ImageStore, blob: &Blob, watch: &Watch<'_>) -> Result<PushState> {
        let (path, digest) = (self.path, &blob.digest);
        let there =
            self.endpoint.send("HEAD", &format!("/v2/{path}/blobs/{digest}"), &|agent, url, shown| {
                with(agent.head(url), shown).call()
            })?;
        if there.status() == StatusCode::OK {
            return Ok(PushState::Held);
        }
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
        let what = || format!("push blob {digest} to {}/{path}", self.endpoint.domain);
        let mut address = self.address(upload.map_or_else(|| self.begin(""), Ok)?)?;
        let (mut from, mut tries) = (0, 0);
        loop {
            tries += 1;
            let err = match self.send(store, blob, from, &address, watch) {
                Ok(None) => return Ok(PushState::Done),
                Ok(Some(err)) => err,
                Err(err) => return Err(err.context(what())),
            };
            if tries == TRIES {
                return Err(err.context(what()));
            }
            std::thread::sleep(Duration::from_millis(200) * tries);
            // What came may have stayed; if not, from the beginning.
            (from, address) = match self.came(&address)? {
                Some((came, address)) if came < blob.size => (came, address),
                _ => (0, self.address(self.begin("")?)?),
            };
        }
    }

    /// Sends what is missing of a blob. `Some`: it broke off, and may go better.
    fn send(
        &self,
        store: &ImageStore,
        blob: &Blob,
        from: u64,
        address: &str,
        watch: &Watch<'_>,
    ) -> Result<Option<Error>> {
        let digest = &blob.digest;
        let mut end = address.to_owned();
        let body = |request: RequestBuilder<ureq::typestate::WithBody>| {
            let bytes = store.read_blob(digest, from).map_err(io::Error::other)?;
            let mut gone = from;
            let mut counted = Counted(bytes, |bytes| {
                gone += bytes;
                watch(blob, PushState::Going(gone));
            });
            request
                .config()
                .timeout_recv_response(Some(CHECK))
                .build()
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size - from)
                .send(SendBody::from_reader(&mut counted))
        };
        if from > 0 {
            let range = format!("{from}-{}", blob.size - 1);
            let mut patch = |agent: &Agent, url: &str, shown: Option<&str>| {
                body(with(agent.patch(url), shown).header(CONTENT_RANGE, &range))
            };
            let mut answer = match self.endpoint.once("PATCH", address, &mut patch)? {
                Ok(answer) => answer,
                Err(err) => return Ok(Some(err)),
            };
            match answer.status() {
                StatusCode::ACCEPTED | StatusCode::NO_CONTENT => end = self.address(answer)?,
                // It does not want the rest alone: the next try begins anew.
                _ => return Ok(Some(self.endpoint.refused(&mut answer, "send the rest".to_owned()))),
            }
        }
        let separator = if end.contains('?') { '&' } else { '?' };
        let end = format!("{end}{separator}digest={digest}");
        let mut put = |agent: &Agent, url: &str, shown: Option<&str>| {
            let request = with(agent.put(url), shown);
            if from > 0 { request.send_empty() } else { body(request) }
        };
        let mut answer = match self.endpoint.once("PUT", &end, &mut put)? {
            Ok(answer) => answer,
            Err(err) => return Ok(Some(err)),
        };
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(None),
            status => {
                let err = self.endpoint.refused(&mut answer, "it is not taken".to_owned());
                if super::failure::is_busy(status) || from > 0 { Ok(Some(err)) } else { Err(err) }
            }
        }
    }

    /// How much of an upload the registry has (distribution-spec, "Pushing a blob in chunks"), and where to send the rest.
    fn came(&self, address: &str) -> Result<Option<(u64, String)>> {
        let mut ask = |agent: &Agent, url: &str, shown: Option<&str>| with(agent.get(url), shown).call();
        let Ok(answer) = self.endpoint.once("GET", address, &mut ask)? else { return Ok(None) };
        if answer.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let range = answer.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let last = range.trim_start_matches("bytes=").split_once('-').and_then(|(_, last)| last.parse().ok());
        let address = match answer.headers().contains_key(LOCATION) {
            true => self.address(answer)?,
            false => address.to_owned(),
        };
        // `0-0` is said of nothing as well as of one byte.
        Ok(last.filter(|last: &u64| *last > 0).map(|last| (last + 1, address)))
    }

    fn begin(&self, query: &str) -> Result<Response<Body>> {
        let path = format!("/v2/{}/blobs/uploads/{query}", self.path);
        self.endpoint.send("POST", &path, &|agent, url, shown| with(agent.post(url), shown).send_empty())
    }

    /// Where an upload that was begun goes on. Credentials go to the registry alone.
    fn address(&self, mut answer: Response<Body>) -> Result<String> {
        if !answer.status().is_success() {
            return Err(self
                .endpoint
                .refused(&mut answer, format!("push to {}/{}", self.endpoint.domain, self.path)));
        }
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| {
            let what =
                format!("push to {}/{}: the registry does not say where to", self.endpoint.domain, self.path);
            Error::new(Kind::Corrupt, what)
        })?;
        self.endpoint.own(location).map(str::to_owned)
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
