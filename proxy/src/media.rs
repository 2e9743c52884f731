//! Media types by file extension.
//!
//! In: a file's name. Out: a `Content-Type`. Unknown extensions are bytes: a guess could turn an upload into a script.

/// The `Content-Type` of a file called `name`.
pub(crate) fn media_type(name: &[u8]) -> &'static str {
    let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    let Some(dot) = base.iter().rposition(|b| *b == b'.') else { return "application/octet-stream" };
    let mut lower = [0; 12];
    let extension = &base[dot + 1..];
    let Some(lower) = lower.get_mut(..extension.len()) else { return "application/octet-stream" };
    lower.copy_from_slice(extension);
    lower.make_ascii_lowercase();
    match &*lower {
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"js" | b"mjs" | b"cjs" => "text/javascript; charset=utf-8",
        b"json" | b"map" => "application/json",
        b"webmanifest" => "application/manifest+json",
        b"jsonld" => "application/ld+json",
        b"txt" | b"text" | b"log" => "text/plain; charset=utf-8",
        b"md" | b"markdown" => "text/markdown; charset=utf-8",
        b"csv" => "text/csv; charset=utf-8",
        b"ics" => "text/calendar; charset=utf-8",
        b"vtt" => "text/vtt; charset=utf-8",
        b"xml" | b"xsl" => "text/xml; charset=utf-8",
        b"rss" => "application/rss+xml; charset=utf-8",
        b"atom" => "application/atom+xml; charset=utf-8",
        b"xhtml" => "application/xhtml+xml; charset=utf-8",
        b"yaml" | b"yml" => "application/yaml",
        b"wasm" => "application/wasm",
        b"pdf" => "application/pdf",
        b"rtf" => "application/rtf",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"avif" => "image/avif",
        b"jxl" => "image/jxl",
        b"ico" => "image/x-icon",
        b"bmp" => "image/bmp",
        b"tif" | b"tiff" => "image/tiff",
        b"apng" => "image/apng",
        b"woff" => "font/woff",
        b"woff2" => "font/woff2",
        b"ttf" => "font/ttf",
        b"otf" => "font/otf",
        b"eot" => "application/vnd.ms-fontobject",
        b"mp3" => "audio/mpeg",
        b"m4a" => "audio/mp4",
        b"ogg" | b"oga" | b"opus" => "audio/ogg",
        b"wav" => "audio/wav",
        b"flac" => "audio/flac",
        b"aac" => "audio/aac",
        b"mp4" | b"m4v" => "video/mp4",
        b"webm" => "video/webm",
        b"ogv" => "video/ogg",
        b"mov" => "video/quicktime",
        b"zip" => "application/zip",
        b"gz" => "application/gzip",
        b"br" => "application/octet-stream",
        b"tar" => "application/x-tar",
        b"7z" => "application/x-7z-compressed",
        b"zst" => "application/zstd",
        b"epub" => "application/epub+zip",
        b"glb" => "model/gltf-binary",
        b"gltf" => "model/gltf+json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::media_type;

    #[test]
    fn types_follow_the_last_extension() {
        assert_eq!(media_type(b"a/b.min.JS"), "text/javascript; charset=utf-8");
        assert_eq!(media_type(b"a.b/noextension"), "application/octet-stream");
        assert_eq!(media_type(b"x.averyverylongextension"), "application/octet-stream");
        assert_eq!(media_type(b"index.html"), "text/html; charset=utf-8");
    }
}
