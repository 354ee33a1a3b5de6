import CLibc
import Libc

/// What the kernel's own set says of an entry: /proc/self/fdinfo of an epoll descriptor has a line for each,
///
///     tfd:        8 events: 40000001 data:                8  pos:0 ino:1c2 sdev:9
///
/// A one-shot entry that has fired keeps only its flags. Asked once, when a session with such an entry switches over.
enum KernelEntry {
    private static let flags: UInt64 = 0xf000_0000  // EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET

    /// Whether the one-shot entry of `fd` in `set` has fired; false when the kernel does not tell.
    static func hasFired(_ fd: CInt, in set: CInt) -> Bool {
        let file = open(set)
        guard file >= 0 else { return false }
        defer { _ = sys_close(file) }
        let capacity = 1 << 20
        guard let text = sys_map(capacity, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) else { return false }
        defer { sys_unmap(text, capacity) }
        var length = 0
        while length < capacity {
            let count = sys_read(file, text + length, capacity - length)
            if count <= 0 { break }
            length += count
        }
        var scanner = Scanner(bytes: UnsafeRawBufferPointer(start: text, count: length))
        while scanner.skip(past: 0x3a) {  // ':'
            let isTarget = scanner.lastWordWas("tfd")
            guard isTarget, scanner.number(base: 10) == UInt64(UInt32(bitPattern: fd)), scanner.skip(past: 0x3a) else {
                continue
            }
            return scanner.number(base: 16) & ~flags == 0
        }
        return false
    }

    private static func open(_ set: CInt) -> CInt {
        let prefix: StaticString = "/proc/self/fdinfo/"
        return withUnsafeTemporaryAllocation(byteCount: 40, alignment: 8) { path in
            memcpy(path.baseAddress.unsafelyUnwrapped, prefix.utf8Start, prefix.utf8CodeUnitCount)
            var end = prefix.utf8CodeUnitCount
            var divisor: CInt = 1_000_000_000
            while divisor > 1, set / divisor == 0 { divisor /= 10 }
            while divisor > 0 {
                path[end] = UInt8(truncatingIfNeeded: set / divisor % 10) &+ 0x30
                end &+= 1
                divisor /= 10
            }
            path[end] = 0
            return CInt(
                truncatingIfNeeded: sys_open(
                    path.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: CChar.self), O_RDONLY | O_CLOEXEC))
        }
    }

    private struct Scanner {
        let bytes: UnsafeRawBufferPointer
        var position = 0

        mutating func skip(past byte: UInt8) -> Bool {
            while position < bytes.count, bytes[position] != byte { position &+= 1 }
            position &+= 1
            return position < bytes.count
        }

        /// Whether the three bytes before the colon just passed are `word`.
        func lastWordWas(_ word: StaticString) -> Bool {
            position >= 4 && memcmp(bytes.baseAddress.unsafelyUnwrapped + position - 4, word.utf8Start, 3) == 0
        }

        mutating func number(base: UInt64) -> UInt64 {
            while position < bytes.count, bytes[position] == 0x20 { position &+= 1 }
            var value: UInt64 = 0
            while position < bytes.count {
                let digit = bytes[position]
                let worth =
                    digit >= 0x30 && digit <= 0x39 ? digit &- 0x30 : digit >= 0x61 && digit <= 0x66 ? digit &- 0x57 : 99
                guard UInt64(worth) < base else { break }
                value = value &* base &+ UInt64(worth)
                position &+= 1
            }
            return value
        }
    }
}
