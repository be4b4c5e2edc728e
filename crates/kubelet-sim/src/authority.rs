//! gRPC's C core, and with it Python and C++, names a unix socket's percent-encoded path as the HTTP/2
//! authority. The kubelet's server takes that, ours refuses it as malformed. So whatever authority a peer
//! names, ours is told `localhost`: the frames are handed on, their header blocks written anew.

use std::io;

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::UnixStream;

/// `PRI * HTTP/2.0…` (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = 24;
/// Of a frame's payload, unless SETTINGS say otherwise; ours do not (RFC 9113, 4.2).
const FRAME_PAYLOAD_MAX: usize = 16 * 1024;
/// Of a header block: more than any gRPC client has to say.
const HEADER_BLOCK_MAX: usize = 64 * 1024;

/// Hands on what the peer of `asked` and the server behind `served` say to each other, to the server as
/// if the peer had named `localhost`; until the server has said all.
pub async fn proxy_as_localhost(asked: UnixStream, served: UnixStream) {
    let (mut asks, mut is_told) = asked.into_split();
    let (mut answers, mut hears) = served.into_split();
    let questions = async {
        // Whatever was wrong with it, to the server it is a connection that ended.
        let _ = forward_to_server(&mut asks, &mut hears).await;
        let _ = hears.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = copy(&mut answers, &mut is_told) => {}
        () = questions => {}
    }
}

async fn forward_to_server(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut preface = [0; PREFACE_LENGTH];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let mut decoder = Decoder::new();
    loop {
        let frame = Frame::read(from).await?;
        if frame.kind != Frame::HEADERS {
            frame.write(to).await?;
            continue;
        }
        let block = read_header_block(&frame, from).await?;
        let block = replace_authority(&mut decoder, &block)?;
        let end_stream = frame.flags & Frame::END_STREAM;
        let mut parts = block.chunks(FRAME_PAYLOAD_MAX).peekable();
        let (mut kind, mut flags) = (Frame::HEADERS, end_stream);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                flags |= Frame::END_HEADERS;
            }
            let part = Frame {
                kind,
                flags,
                payload: part.to_vec(),
                ..frame
            };
            part.write(to).await?;
            (kind, flags) = (Frame::CONTINUATION, 0);
        }
    }
}

/// The header block that starts with this frame (RFC 9113, 6.2 and 6.10).
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

/// The block with another authority, each field as a literal that is not indexed (RFC 7541, 6.2.2).
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

/// A string's length, without Huffman's code: an integer with a prefix of 7 bits (RFC 7541, 5.1).
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

/// A frame (RFC 9113, 4.1).
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

    /// The part of a block in a HEADERS frame, without padding and priority.
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
        let mut bytes = vec![
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.extend(payload);
        bytes
    }

    /// What the server hears of this.
    async fn heard(said: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        let preface = [b'P'; PREFACE_LENGTH];
        let said = [&preface[..], said].concat();
        let ended = forward_to_server(&mut &*said, &mut heard).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        heard.split_off(PREFACE_LENGTH)
    }

    #[tokio::test]
    async fn the_authority_is_another_and_all_else_stays() {
        let authority = b"\x41\x07tmp%2Fk\x82"; // indexed name, literal value; then :method GET
        let mut padded = vec![2, 0, 0, 0, 0, 0];
        padded.extend(&authority[..4]);
        padded.extend([0, 0]);
        let flags = Frame::PADDED | Frame::PRIORITY | Frame::END_STREAM;
        let said = [
            frame(4, 0, b"settin"),
            frame(Frame::HEADERS, flags, &padded),
            frame(Frame::CONTINUATION, Frame::END_HEADERS, &authority[4..]),
            frame(0, 1, b"data"),
            frame(Frame::HEADERS, Frame::END_HEADERS, b"\xbe"), // from the dynamic table
        ];
        let name = b"\x00\x0a:authority\x09localhost";
        let both = [&name[..], b"\x00\x07:method\x03GET"].concat();
        let expected = [
            frame(4, 0, b"settin"),
            frame(
                Frame::HEADERS,
                Frame::END_STREAM | Frame::END_HEADERS,
                &both,
            ),
            frame(0, 1, b"data"),
            frame(Frame::HEADERS, Frame::END_HEADERS, name),
        ];
        assert_eq!(heard(&said.concat()).await, expected.concat());
    }

    #[tokio::test]
    async fn a_long_block_is_sent_in_parts() {
        let mut block = vec![0, 1, b'x'];
        encode_length(20_000, &mut block);
        block.extend(vec![b'v'; 20_000]);
        let sent = replace_authority(&mut Decoder::new(), &block).unwrap();
        assert_eq!(sent, block);
        let parts: Vec<&[u8]> = block.chunks(200).collect();
        let mut said = Vec::new();
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
            said.extend(frame(kind, last, part));
        }
        let heard = heard(&said).await;
        assert_eq!(&heard[..5], [0, 0x40, 0, Frame::HEADERS, 0]);
        let second = 9 + FRAME_PAYLOAD_MAX;
        assert_eq!(
            &heard[second + 3..second + 5],
            [Frame::CONTINUATION, Frame::END_HEADERS]
        );
    }

    #[test]
    fn broken_frames_are_errors() {
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
