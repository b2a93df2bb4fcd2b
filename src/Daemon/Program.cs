Console.WriteLine("godwitd");
