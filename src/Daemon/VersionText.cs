using System.Reflection;

namespace Godwit.Daemon;

internal static class VersionText
{
    /// <summary>This build's version, for example 0.1.0.</summary>
    public static string Own { get; } = typeof(VersionText).Assembly
        .GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown";
}
