namespace Godwit.Migration;

/// <summary>
/// An expected failure a user can meet: a stable code, what is wrong with its numbers, and the remedy.
/// </summary>
/// <remarks>
/// The message names the thing, the number and the limit; the remedy says what to do next. The long text behind a code
/// is in the API's error catalog, shown by <c>godwit explain CODE</c>.
/// </remarks>
public sealed class GodwitException : Exception
{
    public GodwitException(string code, string message, string remedy = "", Exception? inner = null)
        : base(message, inner)
    {
        Code = code;
        Remedy = remedy;
    }

    /// <summary>Stable code, for example <c>guest-unknown</c>.</summary>
    public string Code { get; }

    /// <summary>What the user can do about it; empty when there is nothing.</summary>
    public string Remedy { get; }
}
