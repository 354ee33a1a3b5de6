import CLibc
import Libc

/// The directories that providers are registered in.
public enum Registry {
    /// Where they are registered unless SAN_PROVIDER_PATH names other directories, with colons between them.
    public static let usualPath: StaticString = "/etc/sanswitch/providers.d"
    private static let suffix: StaticString = ".conf"

    /// Calls `body` with the path of each file `*.conf` in the directories of `path`.
    public static func forEachFile(_ path: UnsafePointer<CChar>, _ body: (UnsafePointer<CChar>) -> Void) {
        forEachDirectory(path) { directory in
            guard let stream = opendir(directory) else { return }
            defer { closedir(stream) }
            while let entry = readdir(stream) {
                withUnsafeBytes(of: &entry.pointee.d_name) {
                    let name = $0.baseAddress!.assumingMemoryBound(to: CChar.self)
                    if isConfiguration(name) { join(directory, name, body) }
                }
            }
        }
    }

    /// A number that changes when a file comes or goes. 0 when the answer may not be relied on yet: the clock of a directory's
    /// changes is coarse, so one that has just changed may change again unseen.
    public static func stamp(_ path: UnsafePointer<CChar>) -> UInt64 {
        var stamp: UInt64 = 1
        var isFresh = false
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        forEachDirectory(path) { directory in
            var status = stat()
            let exists = stat(directory, &status) == 0
            let changed = exists ? status.st_mtim : timespec()
            if exists, now.tv_sec &- changed.tv_sec < 2 { isFresh = true }
            for word in [
                UInt64(exists ? status.st_ino : 0), UInt64(bitPattern: Int64(changed.tv_sec)), UInt64(changed.tv_nsec),
            ] {
                stamp = (stamp ^ word) &* 0x0000_0100_0000_01b3
            }
        }
        return isFresh ? 0 : stamp | 1
    }

    /// Calls `body` for each item of a list with separators; empty ones are left out.
    public static func forEachItem(
        _ list: UnsafePointer<CChar>, _ separator: UInt8, _ body: (UnsafePointer<CChar>) -> Void
    ) {
        var rest = Slice(bytes: UnsafeRawBufferPointer(start: list, count: strlen(list)))
        while !rest.bytes.isEmpty {
            let item = rest.cut(at: separator).trimmed
            if item.bytes.isEmpty { continue }
            let text = item.copy
            body(text)
            free(UnsafeMutablePointer(mutating: text))
        }
    }

    private static func forEachDirectory(_ path: UnsafePointer<CChar>, _ body: (UnsafePointer<CChar>) -> Void) {
        forEachItem(path, 0x3a, body)
    }

    private static func isConfiguration(_ name: UnsafePointer<CChar>) -> Bool {
        let length = strlen(name)
        return length > 5 && name[0] != 0x2e && memcmp(name + length - 5, suffix.utf8Start, 5) == 0
    }

    private static func join(
        _ directory: UnsafePointer<CChar>, _ name: UnsafePointer<CChar>, _ body: (UnsafePointer<CChar>) -> Void
    ) {
        let (first, second) = (strlen(directory), strlen(name))
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: first + second + 2) { path in
            memcpy(path.baseAddress!, directory, first)
            path[first] = 0x2f
            memcpy(path.baseAddress! + first + 1, name, second + 1)
            body(UnsafePointer(path.baseAddress!))
        }
    }
}
