import CLibc
import Glibc
import Libc
import SessionState
import Synchronization

/// A process that has a session page among its descriptors.
struct Holder {
    let pid: Int32
    /// Its number in the innermost pid namespace, which is what the library in it knows.
    let ownPid: UInt32
}

/// The memory of one process family's sessions, copied. A copy, because the owner could truncate a mapped file under the
/// reader's feet (SIGBUS), and because it may die meanwhile: what pread(2) has returned stays.
struct SessionPageCopy {
    var holders: [Holder]
    private let states: [UInt64]
    let count: Int

    init?(descriptor fd: CInt, holder: Holder) {
        var page = SessionPage(pid: 0)
        guard pread(fd, &page, MemoryLayout<SessionPage>.size, 0) == MemoryLayout<SessionPage>.size,
            page.magic == SessionPage.magic, page.stride == UInt32(SessionState.stride)
        else { return nil }
        let length = Int(min(page.highWater, UInt64(SessionPage.capacity))) * SessionState.stride
        var filled = 0
        states = [UInt64](unsafeUninitializedCapacity: length / 8) { buffer, initialized in
            let raw = UnsafeMutableRawBufferPointer(buffer)
            while filled < length {
                let got = pread(fd, raw.baseAddress! + filled, length - filled, off_t(SessionPage.headerSize + filled))
                guard got > 0 else { break }
                filled += got
            }
            initialized = filled / 8
        }
        count = filled / SessionState.stride
        holders = [holder]
    }

    /// The sessions that a living process holds.
    func reports() -> [SessionReport] {
        states.withUnsafeBytes { bytes in
            (0..<count).compactMap { index in
                let state = (bytes.baseAddress! + index * SessionState.stride).assumingMemoryBound(
                    to: SessionState.self)
                guard state.pointee.inUse.load(ordering: .relaxed) == 1 else { return nil }
                let pids = livePids(state)
                return pids.isEmpty ? nil : SessionReport(state, pids: pids)
            }
        }
    }

    private func livePids(_ state: UnsafePointer<SessionState>) -> [Int32] {
        let named = [
            state.pointee.holder0.load(ordering: .relaxed), state.pointee.holder1.load(ordering: .relaxed),
            state.pointee.holder2.load(ordering: .relaxed), state.pointee.holder3.load(ordering: .relaxed),
        ]
        let seen = holders.filter { named.contains($0.ownPid) }.map(\.pid)
        if !seen.isEmpty { return seen }
        // More holders than places: any process that has the page may be one.
        return state.pointee.holdersOverflow.load(ordering: .relaxed) == 0 ? [] : holders.map(\.pid)
    }
}

/// Finds session pages: a memfd of their name among the descriptors of a process that the kernel lets us look into.
enum SessionPages {
    private static let prefix = "/memfd:" + SessionPage.name.description

    /// Every session page of this machine, once each, with all the processes that share it.
    static func all() -> [SessionPageCopy] {
        var pages: [ino_t: SessionPageCopy] = [:]
        var order: [ino_t] = []
        for pid in entries("/proc").compactMap({ Int32($0) }) {
            for name in entries("/proc/\(pid)/fd") {
                let path = "/proc/\(pid)/fd/\(name)"
                guard let target = readLink(path), target.hasPrefix(prefix) else { continue }
                let fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
                guard fd >= 0 else { continue }
                defer { close(fd) }
                var status = stat()
                guard fstat(fd, &status) == 0 else { continue }
                let holder = Holder(pid: pid, ownPid: ownPid(of: pid))
                if pages[status.st_ino] != nil {
                    pages[status.st_ino]?.holders.append(holder)
                } else if let page = SessionPageCopy(descriptor: fd, holder: holder) {
                    pages[status.st_ino] = page
                    order.append(status.st_ino)
                }
            }
        }
        return order.compactMap { pages[$0] }
    }

    /// The last number of the NSpid line of /proc/PID/status.
    private static func ownPid(of pid: Int32) -> UInt32 {
        guard let status = readFile("/proc/\(pid)/status") else { return UInt32(bitPattern: pid) }
        let line = String(decoding: status, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("NSpid:") }
        return line?.split(separator: "\t").last.flatMap { UInt32($0) } ?? UInt32(bitPattern: pid)
    }

    /// The names in a directory; none when it is gone or closed to us.
    static func entries(_ path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            // d_name is a fixed array to the importer: its bytes, up to the zero.
            let name = UnsafeRawPointer(entry) + MemoryLayout<dirent>.offset(of: \.d_name)!
            names.append(String(cString: name.assumingMemoryBound(to: CChar.self)))
        }
        return names
    }
}
