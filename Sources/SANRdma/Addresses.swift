import CLibc
import CProvider
import Libc

/// The addresses of this host's RDMA devices, as the kernel shows them below /sys: asked without loading the libraries, because
/// most hosts have none. On RoCE a port's global identifiers are the addresses of its interface.
enum Addresses {
    private static let capacity = 64
    private static let root: StaticString = "/sys/class/infiniband"

    /// True as well when every port is down.
    static var isEmpty: Bool { find { _, count in count == 0 } }

    static var stamp: UInt64 {
        find { found, count in
            var stamp: UInt64 = count == 0 ? 0 : 0xcbf2_9ce4_8422_2325
            for i in 0..<count {
                stamp = ((stamp ^ found[i].high) &* 0x0000_0100_0000_01b3 ^ found[i].low) &* 0x0000_0100_0000_01b3
            }
            return stamp
        }
    }

    private static func find<R>(_ body: (UnsafeMutableBufferPointer<Pair>, Int) -> R) -> R {
        withUnsafeTemporaryAllocation(of: Pair.self, capacity: capacity) { found in
            var count = 0
            forEachDevice { device in
                if isIwarp(device) { return }
                addPorts(device, found, &count)
            }
            return body(found, count)
        }
    }

    /// Fills `out` with addresses (san_address) unless it is too short; the length of the whole list, in bytes.
    static func list(_ out: UnsafeMutableRawPointer?, _ length: Int) -> CInt {
        find { found, count in
            let needed = count &* MemoryLayout<Pair>.size
            if let out, length >= needed, needed > 0 {
                out.copyMemory(from: found.baseAddress.unsafelyUnwrapped, byteCount: needed)
            }
            return CInt(truncatingIfNeeded: needed)
        }
    }

    /// iWARP devices share TCP's ports: a companion there would take the program's own. They stay out.
    static var hasIwarp: Bool {
        var found = false
        forEachDevice { if isIwarp($0) { found = true } }
        return found
    }

    /// The 16 bytes of an address, as they lie in memory.
    private struct Pair: Equatable {
        var high: UInt64 = 0
        var low: UInt64 = 0
    }

    /// Calls `body` with the path of each device.
    private static func forEachDevice(_ body: (Path) -> Void) {
        let saved = libc_errno()
        defer { libc_set_errno(saved) }
        guard
            let directory = root.withUTF8Buffer({
                opendir(UnsafeRawPointer($0.baseAddress!).assumingMemoryBound(to: CChar.self))
            })
        else { return }
        while let entry = readdir(directory) {
            withUnsafePointer(to: &entry.pointee.d_name) {
                let name = UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self)
                if name[0] == 0x2e { return }
                var path = Path(root)
                path.add("/")
                path.add(name)
                body(path)
            }
        }
        closedir(directory)
    }

    private static func isIwarp(_ device: Path) -> Bool {
        // "1: CA", "4: RNIC"
        device.file("/node_type") { $0.count > 0 && $0[0] == 0x34 }
    }

    private static func addPorts(_ device: Path, _ found: UnsafeMutableBufferPointer<Pair>, _ count: inout Int) {
        for port in 1...4 {
            var path = device
            path.add("/ports/")
            path.add(number: port)
            // "4: ACTIVE"
            guard path.file("/state", { $0.count > 0 && $0[0] == 0x34 }),
                path.file("/link_layer", { $0.count > 0 && $0[0] == 0x45 })
            else { continue }
            // A table of some hundred places, filled from its beginning, with holes where addresses have gone.
            var empty = 0
            for index in 0..<256 where count < capacity && empty < 8 {
                var entry = path
                entry.add("/gids/")
                entry.add(number: index)
                var address = Pair()
                guard entry.file("", { read(&address, $0) }) else { break }
                empty = address == Pair() ? empty &+ 1 : 0
                let isLinkLocal = address.high.bigEndian >> 54 == 0x3fa
                if address == Pair() || isLinkLocal || found[0..<count].contains(where: { $0 == address }) { continue }
                (found.baseAddress.unsafelyUnwrapped + count).initialize(to: address)
                count &+= 1
            }
        }
    }

    /// "0000:0000:0000:0000:0000:ffff:0a00:0001"
    private static func read(_ address: inout Pair, _ text: UnsafeRawBufferPointer) -> Bool {
        var digits = 0
        var words: (UInt64, UInt64) = (0, 0)
        for byte in text where byte != 0x3a && byte != 0x0a {
            let digit: UInt8
            switch byte {
            case 0x30...0x39: digit = byte &- 0x30
            case 0x61...0x66: digit = byte &- 0x57
            default: return false
            }
            if digits < 16 { words.0 = words.0 << 4 | UInt64(digit) } else { words.1 = words.1 << 4 | UInt64(digit) }
            digits &+= 1
        }
        address = Pair(high: words.0.bigEndian, low: words.1.bigEndian)
        return digits == 32
    }
}

/// A file name, without allocation.
struct Path {
    private var bytes = InlineArray<256, CChar>(repeating: 0)
    private var length = 0

    init(_ start: StaticString) { add(start) }

    mutating func add(_ text: StaticString) {
        for i in 0..<text.utf8CodeUnitCount { add(CChar(bitPattern: text.utf8Start[i])) }
    }

    mutating func add(_ text: UnsafePointer<CChar>) {
        var at = 0
        while text[at] != 0 {
            add(text[at])
            at &+= 1
        }
    }

    mutating func add(number: Int) {
        if number >= 100 { add(CChar(truncatingIfNeeded: 0x30 + number / 100)) }
        if number >= 10 { add(CChar(truncatingIfNeeded: 0x30 + number / 10 % 10)) }
        add(CChar(truncatingIfNeeded: 0x30 + number % 10))
    }

    private mutating func add(_ byte: CChar) {
        guard length < 255 else { return }
        bytes[length] = byte
        length &+= 1
    }

    /// What `body` says of the contents of the file with `suffix`; false when it cannot be read.
    func file(_ suffix: StaticString, _ body: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        var path = self
        path.add(suffix)
        let fd = withUnsafePointer(to: &path.bytes) {
            sys_open(UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self), O_RDONLY | O_CLOEXEC)
        }
        guard fd >= 0 else { return false }
        defer { _ = sys_close(CInt(fd)) }
        return withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { text in
            let count = sys_read(CInt(fd), text.baseAddress, text.count)
            return count >= 0 && body(UnsafeRawBufferPointer(rebasing: text[0..<count]))
        }
    }
}
