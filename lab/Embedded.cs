namespace Godwit.Lab;

/// <summary>Files that travel inside the executable: the guest's program, its init and the list of packages.</summary>
internal static class Embedded
{
    internal static string Text(string name)
    {
        using Stream stream = typeof(Embedded).Assembly.GetManifestResourceStream(name)
            ?? throw new LabException($"{name} is missing from this build.");
        using StreamReader reader = new(stream);
        return reader.ReadToEnd();
    }
}
