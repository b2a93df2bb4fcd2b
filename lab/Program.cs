using System.Runtime.Versioning;

[assembly: SupportedOSPlatform("linux")]

return Godwit.Lab.LabCommands.Run(args);
