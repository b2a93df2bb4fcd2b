namespace Godwit.Lab;

/// <summary>The lab cannot do what it was asked; the message names the thing and the remedy.</summary>
internal sealed class LabException(string message, Exception? inner = null) : Exception(message, inner);
