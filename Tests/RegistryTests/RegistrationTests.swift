import CLibc
import Testing

@testable import Registry

/// The outcome of reading one file's text.
private func read(_ text: String) -> Result<Registration, Registration.Fault> {
    Array(text.utf8).withUnsafeBytes { bytes in
        do throws(Registration.Fault) { return .success(try Registration(bytes)) } catch { return .failure(error) }
    }
}

private func fault(_ text: String) -> Registration.Fault? {
    if case .failure(let fault) = read(text) { return fault }
    return nil
}

private let guid = "guid = 6f1c2d3e-0001-4d45-8d4f-525900000001\n"
private let library = "library = /usr/lib/libx.so\n"

@Suite struct RegistrationTests {
    @Test func file_allKeys() throws {
        let text = "# a provider\r\n\n  name=x-1.a_B  # its name\n\(guid)\tlibrary = /a b/c.so\norder = 40"
        let registration = try read(text).get()
        #expect(String(cString: registration.name) == "x-1.a_B")
        #expect(registration.library.map { String(cString: $0) } == "/a b/c.so")
        #expect(registration.order == 40)
        let parsed = try #require(registration.guid)
        #expect(parsed.a == 0x6f1c_2d3e && parsed.b == 1 && parsed.c == 0x4d45 && parsed.d.0 == 0x8d && parsed.d.7 == 1)
    }

    @Test func file_builtInAndUsualOrder() throws {
        let registration = try read("name = shm\n\(guid)library = built-in\n").get()
        #expect(registration.library == nil && registration.order == Registration.usualOrder)
    }

    @Test(arguments: [
        ("", Registration.Fault.noName), ("name = x\n\(library)", .noGuid), ("name = x\n\(guid)", .noLibrary),
        ("name\n", .notKeyAndValue), ("nam = x\n", .unknownKey), ("name = \n", .badName), ("name = a b\n", .badName),
        ("name = \(String(repeating: "x", count: 32))\n", .badName), ("name = x\nname = y\n", .repeatedKey),
        ("guid = 6f1c2d3e-0001-4d45-8d4f-52590000000g\n", .badGuid), ("guid = 6f1c\n", .badGuid),
        ("guid = 6f1c2d3e00001-4d45-8d4f-525900000001\n", .badGuid), ("library = libx.so\n", .badLibrary),
        ("library =\n", .badLibrary), ("order = -1\n", .badOrder), ("order = 1000000\n", .badOrder),
    ]) func file_faults(_ text: String, _ expected: Registration.Fault) {
        #expect(fault(text) == expected)
    }

    @Test func file_anyBytesAreRefusedQuietly() {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        for _ in 0..<20_000 {
            var bytes = [UInt8](("name = x\n" + guid + library).utf8)
            for _ in 0..<4 {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                bytes[Int(state >> 33) % bytes.count] = UInt8(truncatingIfNeeded: state >> 20)
            }
            bytes.withUnsafeBytes { bytes in
                if let registration = try? Registration(bytes) {
                    #expect(strlen(registration.name) > 0)
                    registration.discard()
                }
            }
        }
    }

    @Test func file_tooLongOrMissing() throws {
        #expect(throws: Registration.Fault.unreadable) { _ = try Registration(file: "/nonexistent.conf") }
        #expect(throws: Registration.Fault.tooLong) { _ = try Registration(file: "/dev/zero") }
    }

    @Test func list_items() {
        var items: [String] = []
        Registry.forEachItem(" shm, /a/b.so ,,x", 0x2c) { items.append(String(cString: $0)) }
        #expect(items == ["shm", "/a/b.so", "x"])
    }

    @Test func stamp_changesWithTheDirectory() {
        #expect(Registry.stamp("/nonexistent/a") == Registry.stamp("/nonexistent/a"))
        #expect(Registry.stamp("/proc/self") == 0 || Registry.stamp("/usr") != Registry.stamp("/usr/lib"))
        #expect(Registry.stamp("/usr") == Registry.stamp("/usr"))
    }
}
