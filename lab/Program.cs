return Godwit.Lab.LabCommands.Run(args);
