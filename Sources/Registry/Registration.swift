import CLibc
import CProvider
import Libc

/// One provider as its file names it: lines of `key = value`, `#` begins a comment.
///
///     name = example
///     guid = 6f1c2d3e-0001-4d45-8d4f-525900000001
///     library = /usr/lib/sanswitch/libexample.so    # or: built-in
///     order = 40                                    # less is asked first; 100 if absent
public struct Registration {
    /// Most bytes of a file.
    public static let longestFile = 4096
    /// Most bytes of a name, its end included (san_provider_info).
    public static let longestName = 32
    public static let usualOrder = 100

    /// What is wrong with a file.
    public enum Fault: UInt32, CaseIterable, Error {
        case unreadable, tooLong, notKeyAndValue, unknownKey, repeatedKey, badName, badGuid, badLibrary, badOrder
        case noName, noGuid, noLibrary

        /// For people.
        public var text: StaticString {
            switch self {
            case .unreadable: "cannot be read"
            case .tooLong: "is longer than 4096 bytes"
            case .notKeyAndValue: "has a line that is not `key = value`"
            case .unknownKey: "has a key other than name, guid, library and order"
            case .repeatedKey: "has a key twice"
            case .badName: "has a name that is not 1 to 31 letters, digits, dots, dashes or underscores"
            case .badGuid: "has a malformed guid"
            case .badLibrary: "has a library that is neither an absolute path nor built-in"
            case .badOrder: "has an order that is not a number from 0 to 999999"
            case .noName: "has no name"
            case .noGuid: "has no guid"
            case .noLibrary: "has no library"
            }
        }
    }

    /// C strings in memory of the registration's own, which lives as long as the process.
    public let name: UnsafePointer<CChar>
    /// Nil: any.
    public let guid: san_guid?
    /// Nil: built in.
    public let library: UnsafePointer<CChar>?
    public var order: Int

    /// A provider without a file: built in, or a library that the environment names.
    public init(name: UnsafePointer<CChar>, guid: san_guid?, library: UnsafePointer<CChar>?, order: Int) {
        (self.name, self.guid, self.library, self.order) = (name, guid, library, order)
    }

    /// Reads one file.
    public init(file: UnsafePointer<CChar>) throws(Fault) {
        let fd = sys_open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard fd >= 0 else { throw .unreadable }
        defer { _ = sys_close(CInt(fd)) }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.longestFile + 1, alignment: 8)
        defer { buffer.deallocate() }
        var count = 0
        while count < buffer.count {
            let more = sys_read(CInt(fd), buffer.baseAddress! + count, buffer.count - count)
            guard more >= 0 else { throw .unreadable }
            if more == 0 { break }
            count += more
        }
        guard count <= Self.longestFile else { throw .tooLong }
        try self.init(UnsafeRawBufferPointer(rebasing: buffer[0..<count]))
    }

    /// Reads the text of a file.
    public init(_ text: UnsafeRawBufferPointer) throws(Fault) {
        var name: Slice?
        var guid: san_guid?
        var library: Slice?
        var order: Int?
        var rest = Slice(bytes: text)
        while !rest.bytes.isEmpty {
            let line = rest.cut(at: 0x0a).before(0x23).trimmed
            if line.bytes.isEmpty { continue }
            var value = line
            let key = value.cut(at: 0x3d).trimmed
            guard key.bytes.count < line.bytes.count else { throw .notKeyAndValue }
            value = value.trimmed
            if key == "name" {
                guard name == nil else { throw .repeatedKey }
                guard value.isName else { throw .badName }
                name = value
            } else if key == "guid" {
                guard guid == nil else { throw .repeatedKey }
                guard let parsed = value.guid else { throw .badGuid }
                guid = parsed
            } else if key == "library" {
                guard library == nil else { throw .repeatedKey }
                guard value.bytes.first == 0x2f || value == "built-in" else { throw .badLibrary }
                library = value
            } else if key == "order" {
                guard order == nil else { throw .repeatedKey }
                guard let number = value.number else { throw .badOrder }
                order = number
            } else {
                throw .unknownKey
            }
        }
        guard let name else { throw .noName }
        guard let guid else { throw .noGuid }
        guard let library else { throw .noLibrary }
        self.init(
            name: name.copy, guid: guid, library: library == "built-in" ? nil : library.copy,
            order: order ?? Self.usualOrder)
    }

    /// Gives the texts back; of a registration that nobody keeps.
    public func discard() {
        free(UnsafeMutablePointer(mutating: name))
        if let library { free(UnsafeMutablePointer(mutating: library)) }
    }
}

/// A part of a file's text.
struct Slice {
    var bytes: UnsafeRawBufferPointer

    static func == (slice: Slice, text: StaticString) -> Bool {
        slice.bytes.count == text.utf8CodeUnitCount
            && memcmp(slice.bytes.baseAddress!, text.utf8Start, text.utf8CodeUnitCount) == 0
    }

    /// What is before the first `byte`, which goes with it; all if there is none.
    mutating func cut(at byte: UInt8) -> Slice {
        let end = bytes.firstIndex(of: byte) ?? bytes.count
        let head = Slice(bytes: UnsafeRawBufferPointer(rebasing: bytes[0..<end]))
        bytes = UnsafeRawBufferPointer(rebasing: bytes[min(end + 1, bytes.count)...])
        return head
    }

    func before(_ byte: UInt8) -> Slice {
        var copy = self
        return copy.cut(at: byte)
    }

    var trimmed: Slice {
        func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0d }
        var (start, end) = (0, bytes.count)
        while start < end, isBlank(bytes[start]) { start += 1 }
        while end > start, isBlank(bytes[end - 1]) { end -= 1 }
        return Slice(bytes: UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
    }

    var isName: Bool {
        guard !bytes.isEmpty, bytes.count < Registration.longestName else { return false }
        for byte in bytes {
            switch byte {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x2d, 0x2e, 0x5f: continue
            default: return false
            }
        }
        return true
    }

    var number: Int? {
        guard !bytes.isEmpty, bytes.count <= 6 else { return nil }
        var value = 0
        for byte in bytes {
            guard byte >= 0x30, byte <= 0x39 else { return nil }
            value = value * 10 + Int(byte - 0x30)
        }
        return value
    }

    /// 8-4-4-4-12 hexadecimal digits.
    var guid: san_guid? {
        guard bytes.count == 36 else { return nil }
        var digits: (UInt64, UInt64) = (0, 0)
        var count = 0
        for (i, byte) in bytes.enumerated() {
            if i == 8 || i == 13 || i == 18 || i == 23 {
                guard byte == 0x2d else { return nil }
                continue
            }
            let digit: UInt8
            switch byte {
            case 0x30...0x39: digit = byte - 0x30
            case 0x41...0x46: digit = byte - 0x37
            case 0x61...0x66: digit = byte - 0x57
            default: return nil
            }
            if count < 16 { digits.0 = digits.0 << 4 | UInt64(digit) } else { digits.1 = digits.1 << 4 | UInt64(digit) }
            count += 1
        }
        var guid = san_guid()
        guid.a = UInt32(digits.0 >> 32)
        guid.b = UInt16(truncatingIfNeeded: digits.0 >> 16)
        guid.c = UInt16(truncatingIfNeeded: digits.0)
        withUnsafeMutableBytes(of: &guid.d) { $0.storeBytes(of: digits.1.bigEndian, as: UInt64.self) }
        return guid
    }

    /// As a C string of its own.
    var copy: UnsafePointer<CChar> {
        let text = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count + 1)
        memcpy(text, bytes.baseAddress!, bytes.count)
        text[bytes.count] = 0
        return UnsafePointer(text)
    }
}
