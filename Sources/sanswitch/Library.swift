import CLibc
import Glibc

/// Where libsanswitch.so is.
enum Library {
    static let name = "libsanswitch.so"

    /// `build/bin` and `PREFIX/bin` both have it in `../lib`; after that, where an installation would have put it.
    static var candidates: [String] {
        let places = ["/usr/local/lib", "/usr/lib"].map { "\($0)/\(name)" }
        guard let directory = executableDirectory else { return places }
        let parent = directory.split(separator: "/").dropLast().joined(separator: "/")
        return ["/\(parent)/lib/\(name)"] + places
    }

    static func find() -> String? { candidates.first { access($0, R_OK) == 0 } }

    static var executableDirectory: String? {
        guard let path = readLink("/proc/self/exe"), let slash = path.lastIndex(of: "/") else { return nil }
        return String(path[..<slash])
    }

    /// Why ld.so could not be told of `path`; nil when it can. LD_PRELOAD has no way to quote its separators.
    static func unusable(_ path: String) -> String? {
        if access(path, R_OK) != 0 { return "\(path): \(describe(libc_errno()))" }
        if path.contains(where: { $0 == " " || $0 == ":" || $0 == "\t" || $0 == "\n" }) {
            return "\(path): LD_PRELOAD cannot name a path with a space or a colon"
        }
        return nil
    }

    /// LD_PRELOAD with the library before what is there.
    static func preload(_ path: String) -> String {
        guard let before = environment("LD_PRELOAD"), !before.isEmpty else { return path }
        let others = before.split { $0 == " " || $0 == ":" }.filter { $0 != path }
        return ([path[...]] + others).joined(separator: ":")
    }
}

func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// The target of a symbolic link; nil when there is none to read.
func readLink(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = readlink(path, &buffer, buffer.count)
    return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
}

/// `path` as seen from any directory.
func absolute(_ path: String) -> String {
    guard !path.hasPrefix("/"), let directory = readLink("/proc/self/cwd") else { return path }
    return "\(directory)/\(path)"
}

/// A small file of /proc or the head of a larger one; nil when it cannot be read.
func readFile(_ path: String, limit: Int = 1 << 20) -> [UInt8]? {
    let fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(limit, 1 << 16))
    while bytes.count < limit {
        let count = read(fd, &chunk, min(chunk.count, limit - bytes.count))
        if count < 0 { return nil }
        if count == 0 { break }
        bytes += chunk[..<count]
    }
    return bytes
}
