namespace Godwit.Lab;

/// <summary>Where a lab keeps its files, and the names that tell its namespaces from everybody else's.</summary>
/// <remarks>
/// <c>GODWIT_LAB</c> names the lab (default <c>lab</c>): labs of different names do not meet. Sockets, logs and records
/// of processes lie under /run; disk images under /var/lib, because O_DIRECT needs a real file system.
/// </remarks>
internal static class LabDirectory
{
    internal static string Name { get; } = CheckedName(Environment.GetEnvironmentVariable("GODWIT_LAB"));

    internal static string NamespacePrefix { get; } = $"godwit-{Name}-";

    internal static string Run { get; } = $"/run/godwit-{Name}";

    internal static string Disks { get; } = $"/var/lib/godwit-{Name}";

    internal static string Cache { get; } = "/var/cache/godwit-lab";

    internal static string Namespace(string host) => NamespacePrefix + host;

    internal static string InRun(string file) => Path.Combine(Run, file);

    internal static void Create()
    {
        Directory.CreateDirectory(Run);
        Directory.CreateDirectory(Disks);
    }

    private static string CheckedName(string? name) =>
        string.IsNullOrEmpty(name) ? "lab"
        : name.Length <= 20 && name.All(c => char.IsAsciiLetterOrDigit(c)) ? name
        : throw new LabException($"GODWIT_LAB is \"{name}\": at most 20 letters and digits.");
}
