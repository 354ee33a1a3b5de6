import CLibc
import CProvider
import Registry

/// The registered providers, each read, loaded and started as the library would. One that cannot be used leaves the others alone, so none
/// decides whether the switch works.
enum ProviderChecks {
    static func run(_ diagnosis: inout Diagnosis) {
        var results: [(text: String, isGood: Bool)] = []
        path.withCString {
            Registry.forEachFile($0) { file in
                do throws(Registration.Fault) {
                    results.append(examine(try Registration(file: file)))
                } catch {
                    results.append(("\(printable(String(cString: file))) \(error.text)", false))
                }
            }
        }
        for library in chosen where library.hasPrefix("/") {
            library.withCString {
                results.append(examine(Registration(name: $0, guid: nil, library: $0, order: 0)))
            }
        }
        for (text, isGood) in results {
            if isGood {
                diagnosis.good(text)
            } else {
                diagnosis.note(
                    "provider not used: \(text)",
                    remedy: "correct or remove it; `sanswitch provider-check LIBRARY` examines a provider in full")
            }
        }
    }

    private static var path: String {
        guard let path = environment("SAN_PROVIDER_PATH"), !path.isEmpty else { return "\(Registry.usualPath)" }
        return path
    }

    private static var chosen: [String] {
        (environment("SAN_PROVIDERS") ?? "").split(separator: ",").map { $0.trimmed }
    }

    private static func examine(_ registration: Registration) -> (String, Bool) {
        let name = printable(String(cString: registration.name))
        guard let library = registration.library else {
            return name == "shm"
                ? ("provider shm is built in", true) : ("\(name): \(Refusal.Cause.unknownBuiltIn.text)", false)
        }
        let place = printable(String(cString: library))
        let (symbol, refusal) = ProviderTables.symbol(of: library)
        guard let symbol else {
            let cause = refusal?.cause ?? .noLibrary
            return ("\(name): \(cause.text)\(cause == .noLibrary ? ": \(loaderError())" : "")", false)
        }
        var tables = ProviderTables()
        let refused = tables.start(
            { symbol($0, $1, $2, $3, $4) }, upcalls: ConformanceUpcalls.table, guid: registration.guid)
        if let refused {
            let what = refused.what.utf8CodeUnitCount > 0 ? " (\(refused.what))" : ""
            let number = refused.number == 0 ? "" : ": \(describe(refused.number))"
            return ("\(name): \(refused.cause.text)\(what)\(number)", false)
        }
        _ = tables.functions.cleanup()
        let isChosen = chosen.isEmpty || chosen.contains(name) || chosen.contains(place)
        return (
            "provider \(name) (order \(registration.order), \(place)) works\(isChosen ? "" : "; SAN_PROVIDERS leaves it out")",
            true
        )
    }
}

extension Substring {
    fileprivate var trimmed: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}
