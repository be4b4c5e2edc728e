//! A proxy that replaces the HTTP/2 authority of every request by `localhost`.
//!
//! gRPC's C core, which the Python and C++ libraries use, sends the percent-encoded path of a unix socket as the
//! authority. The kubelet's server accepts that, but the server here (the h2 crate) rejects it as malformed. The proxy
//! forwards all frames and re-encodes the header blocks.

use std::convert::Infallible;
use std::io;

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::UnixStream;

/// The length in bytes of `PRI * HTTP/2.0…` (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = 24;
/// In bytes: the default limit, which the server here does not change in its SETTINGS (RFC 9113, 4.2).
const FRAME_PAYLOAD_MAX: usize = 16 * 1024;
/// In bytes, far more than a gRPC client sends.
const HEADER_BLOCK_MAX: usize = 64 * 1024;

/// Forwards all bytes between a client and the server, and replaces the authority of the client's requests. Returns
/// when the server closes the connection.
pub(crate) async fn proxy_as_localhost(client: UnixStream, server: UnixStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        // The server sees a closed connection, whatever the error was.
        let _ = forward_requests(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        _ = copy(&mut from_server, &mut to_client) => {}
        never = requests => match never {},
    }
}

/// Forwards the client's frames until an error, which is `UnexpectedEof` when the client closed the connection.
async fn forward_requests(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Infallible> {
    let mut preface = [0; PREFACE_LENGTH];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let mut decoder = Decoder::new();
    loop {
        let frame = Frame::read(from).await?;
        if frame.kind == Frame::HEADERS {
            let block = read_header_block(&frame, from).await?;
            let block = replace_authority(&mut decoder, &block)?;
            write_header_block(&frame, &block, to).await?;
        } else {
            frame.write(to).await?;
        }
    }
}

/// Reads the header block that starts with a HEADERS frame, up to its last CONTINUATION frame (RFC 9113, 6.2 and 6.10).
async fn read_header_block(
    first: &Frame,
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Vec<u8>> {
    let mut block = first.fragment()?.to_vec();
    let mut flags = first.flags;
    while flags & Frame::END_HEADERS == 0 {
        let next = Frame::read(from).await?;
        if next.kind != Frame::CONTINUATION || block.len() > HEADER_BLOCK_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        block.extend(&next.payload);
        flags = next.flags;
    }
    Ok(block)
}

/// Writes a header block in place of the one that started with the frame `first`.
async fn write_header_block(
    first: &Frame,
    block: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut parts = block.chunks(FRAME_PAYLOAD_MAX).peekable();
    let mut kind = Frame::HEADERS;
    let mut flags = first.flags & Frame::END_STREAM;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= Frame::END_HEADERS;
        }
        let frame = Frame {
            kind,
            flags,
            stream: first.stream,
            payload: part.to_vec(),
        };
        frame.write(to).await?;
        kind = Frame::CONTINUATION;
        flags = 0;
    }
    Ok(())
}

/// Decodes a header block and encodes it again with the authority `localhost`. Each field is a literal without indexing
/// (RFC 7541, 6.2.2), so that the server's dynamic table stays empty.
fn replace_authority(decoder: &mut Decoder<'_>, block: &[u8]) -> io::Result<Vec<u8>> {
    let fields = decoder.decode(block);
    let fields = fields.map_err(|_| io::ErrorKind::InvalidData)?;
    let mut block = Vec::new();
    for (name, value) in fields {
        let value = if name == b":authority" {
            b"localhost".to_vec()
        } else {
            value
        };
        block.push(0);
        for text in [name, value] {
            encode_length(text.len(), &mut block);
            block.extend(text);
        }
    }
    Ok(block)
}

/// Encodes the length of a string without Huffman coding: an integer with a prefix of 7 bits (RFC 7541, 5.1 and 5.2).
fn encode_length(length: usize, block: &mut Vec<u8>) {
    let byte = |bits: usize| u8::try_from(bits).expect("seven bits");
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(byte(length));
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(byte(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    block.push(byte(rest));
}

/// An HTTP/2 frame (RFC 9113, 4.1).
struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Vec<u8>,
}

impl Frame {
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;
    const PRIORITY: u8 = 0x20;

    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > FRAME_PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        Ok(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let [_, a, b, c] = length.to_be_bytes();
        let mut bytes = vec![a, b, c, self.kind, self.flags];
        bytes.extend(self.stream);
        bytes.extend(&self.payload);
        to.write_all(&bytes).await
    }

    /// Returns the header block fragment of a HEADERS frame, without padding and priority (RFC 9113, 6.2).
    fn fragment(&self) -> io::Result<&[u8]> {
        let mut rest = &*self.payload;
        let mut padding = 0;
        let short = || io::Error::from(io::ErrorKind::InvalidData);
        if self.flags & Self::PADDED != 0 {
            let (length, after) = rest.split_first().ok_or_else(short)?;
            (padding, rest) = (usize::from(*length), after);
        }
        if self.flags & Self::PRIORITY != 0 {
            rest = rest.get(5..).ok_or_else(short)?;
        }
        let end = rest.len().checked_sub(padding).ok_or_else(short)?;
        Ok(&rest[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(payload);
        bytes
    }

    /// Returns what the server receives when a client sends these frames.
    async fn forwarded(frames: &[u8]) -> Vec<u8> {
        let mut received = Vec::new();
        let preface = [b'P'; PREFACE_LENGTH];
        let sent = [&preface[..], frames].concat();
        let Err(ended) = forward_requests(&mut &*sent, &mut received).await;
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        received.split_off(PREFACE_LENGTH)
    }

    #[tokio::test]
    async fn only_the_authority_is_replaced() {
        // An indexed name with a literal value, then `:method: GET`.
        let authority = b"\x41\x07tmp%2Fk\x82";
        let mut padded = vec![2, 0, 0, 0, 0, 0];
        padded.extend(&authority[..4]);
        padded.extend([0, 0]);
        let flags = Frame::PADDED | Frame::PRIORITY | Frame::END_STREAM;
        let from_dynamic_table = b"\xbe";
        let sent = [
            frame(4, 0, b"settin"),
            frame(Frame::HEADERS, flags, &padded),
            frame(Frame::CONTINUATION, Frame::END_HEADERS, &authority[4..]),
            frame(0, 1, b"data"),
            frame(Frame::HEADERS, Frame::END_HEADERS, from_dynamic_table),
        ];
        let name = b"\x00\x0a:authority\x09localhost";
        let both = [&name[..], b"\x00\x07:method\x03GET"].concat();
        let both_flags = Frame::END_STREAM | Frame::END_HEADERS;
        let expected = [
            frame(4, 0, b"settin"),
            frame(Frame::HEADERS, both_flags, &both),
            frame(0, 1, b"data"),
            frame(Frame::HEADERS, Frame::END_HEADERS, name),
        ];
        assert_eq!(forwarded(&sent.concat()).await, expected.concat());
    }

    #[tokio::test]
    async fn a_long_header_block_is_sent_in_several_frames() {
        let mut block = vec![0, 1, b'x'];
        encode_length(20_000, &mut block);
        block.extend(vec![b'v'; 20_000]);
        let encoded = replace_authority(&mut Decoder::new(), &block).unwrap();
        assert_eq!(encoded, block);
        let parts: Vec<&[u8]> = block.chunks(200).collect();
        let mut sent = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let kind = if i == 0 {
                Frame::HEADERS
            } else {
                Frame::CONTINUATION
            };
            let last = if i + 1 == parts.len() {
                Frame::END_HEADERS
            } else {
                0
            };
            sent.extend(frame(kind, last, part));
        }
        let received = forwarded(&sent).await;
        assert_eq!(&received[..5], [0, 0x40, 0, Frame::HEADERS, 0]);
        let second = 9 + FRAME_PAYLOAD_MAX;
        assert_eq!(
            &received[second + 3..second + 5],
            [Frame::CONTINUATION, Frame::END_HEADERS]
        );
    }

    #[test]
    fn malformed_frames_are_errors() {
        let mut frame = Frame {
            kind: Frame::HEADERS,
            flags: Frame::PADDED,
            stream: [0; 4],
            payload: vec![9],
        };
        assert!(frame.fragment().is_err());
        frame.flags |= Frame::PRIORITY;
        assert!(frame.fragment().is_err());
        assert!(replace_authority(&mut Decoder::new(), b"\xff\xff").is_err());
    }
}
