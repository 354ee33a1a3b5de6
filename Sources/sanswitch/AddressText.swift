import CLibc
import Libc

extension SocketAddress {
    /// `127.0.0.1:5201` or `[::1]:5201`.
    var text: String { isIPv4 ? "\(hostText):\(port)" : "[\(hostText)]:\(port)" }

    /// The address alone: dotted for IPv4, mapped or not, else as RFC 5952 has it.
    var hostText: String {
        if isIPv4 { return (0..<4).map { String(ipv4 >> (24 - 8 * UInt32($0)) & 255) }.joined(separator: ".") }
        let words = (0..<8).map { index -> UInt16 in
            let half = UInt64(bigEndian: index < 4 ? high : low)
            return UInt16(truncatingIfNeeded: half >> (48 - 16 * UInt64(index % 4)))
        }
        func hexadecimal(_ part: ArraySlice<UInt16>) -> String {
            part.map { String($0, radix: 16) }.joined(separator: ":")
        }
        guard let gap = Self.longestZeroRun(words) else { return hexadecimal(words[...]) }
        return hexadecimal(words[..<gap.lowerBound]) + "::" + hexadecimal(words[gap.upperBound...])
    }

    /// RFC 5952 4.2: the longest run of zero words, the first of equals, and never a single word.
    private static func longestZeroRun(_ words: [UInt16]) -> Range<Int>? {
        var longest = 0..<1
        var start = 0
        for (index, word) in words.enumerated() {
            if word != 0 { start = index + 1 } else if index + 1 - start > longest.count { longest = start..<index + 1 }
        }
        return longest.count > 1 ? longest : nil
    }
}

/// HOST:PORT as people write it: `localhost:80`, `[::1]:80`, `:80` and `80` (this host).
struct Endpoint {
    let host: String
    let port: UInt16

    init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard let last = parts.last, let port = UInt16(last), port > 0 else { return nil }
        var host = parts.dropLast().joined(separator: ":")
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = String(host.dropFirst().dropLast())
        } else if parts.count > 2 {
            // `::1:80` could mean two things: brackets are required.
            return nil
        }
        self.host = host.isEmpty ? "localhost" : host
        self.port = port
    }
}
